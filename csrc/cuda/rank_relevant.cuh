// What both kinds of ranks of relevant items begin with: the class of every gallery row, and where a query's results start.
#pragma once

#include "../rank_relevant.h"
#include "warp.cuh"

namespace zsml::cuda {

constexpr int kClassThreads = 256;
constexpr int kOffsetThreads = 1024;

// The queries' classes and the gallery class by class, as csrc/rank_relevant.h has them.
struct Relevant {
  const int64_t* query_class;  // [Q]
  const int64_t* order;        // [N]
  const int64_t* starts;       // [C + 1]
  const int64_t* first;        // [Q + 1], sums of R: query i has results first[i] ... first[i + 1] - 1
  const int32_t* class_of;     // [N]

  __device__ int64_t begin(int64_t i) const { return starts[query_class[i]]; }
  __device__ int64_t count(int64_t i) const { return starts[query_class[i] + 1] - starts[query_class[i]]; }
};

// What may be wrong with the values; the highest that applies is reported, for the checks of the others rely on it.
enum Wrong { kBadClass = 1, kBadOrder = 2, kBadStarts = 3 };

// largest: items of the largest class.
static __global__ void __launch_bounds__(kClassThreads)
    check_starts(const int64_t* __restrict__ starts, int64_t classes, int64_t rows, int32_t* __restrict__ wrong, int32_t* __restrict__ largest) {
  const int64_t c = blockIdx.x * static_cast<int64_t>(kClassThreads) + threadIdx.x;
  if (c >= classes) return;
  if (0 <= starts[c] && starts[c] <= starts[c + 1] && starts[c + 1] <= rows)
    atomicMax(largest, static_cast<int32_t>(starts[c + 1] - starts[c]));
  else
    atomicMax(wrong, static_cast<int32_t>(kBadStarts));
}

// class_of [N]: the inverse of order and starts, left alone where a row is in no class. One thread per place in order.
static __global__ void __launch_bounds__(kClassThreads)
    find_classes(const int64_t* __restrict__ order, const int64_t* __restrict__ starts, int64_t rows, int64_t classes, int32_t* __restrict__ class_of,
                 int32_t* __restrict__ wrong) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kClassThreads) + threadIdx.x;
  if (at >= rows) return;
  const int64_t row = order[at];
  if (row < 0 || row >= rows) {
    atomicMax(wrong, static_cast<int32_t>(kBadOrder));
    return;
  }
  if (at < starts[0] || at >= starts[classes]) return;
  int64_t low = 0, high = classes;  // starts[low] <= at < starts[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (starts[middle] <= at ? low : high) = middle;
  }
  class_of[row] = static_cast<int32_t>(low);
}

// first [Q + 1] by one block: every thread sums its share of the queries, the shares are summed, then each thread writes its own.
static __global__ void __launch_bounds__(kOffsetThreads)
    find_offsets(const int64_t* __restrict__ query_class, const int64_t* __restrict__ starts, int64_t queries, int64_t classes,
                 int64_t* __restrict__ first, int32_t* __restrict__ wrong) {
  __shared__ int64_t share[kOffsetThreads];
  const int64_t begin = queries * threadIdx.x / kOffsetThreads, end = queries * (threadIdx.x + 1) / kOffsetThreads;
  const auto count = [&](int64_t i) {
    const int64_t c = query_class[i];
    return 0 <= c && c < classes ? starts[c + 1] - starts[c] : int64_t{-1};
  };
  int64_t sum = 0;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t own = count(i);
    if (own < 0) atomicMax(wrong, static_cast<int32_t>(kBadClass));
    sum += own;
  }
  share[threadIdx.x] = sum;
  for (unsigned step = 1; step < kOffsetThreads; step *= 2) {
    __syncthreads();
    const int64_t lower = threadIdx.x >= step ? share[threadIdx.x - step] : 0;
    __syncthreads();
    share[threadIdx.x] += lower;
  }
  int64_t at = share[threadIdx.x] - sum;
  for (int64_t i = begin; i < end; ++i) {
    first[i] = at;
    at += count(i);
  }
  if (threadIdx.x == kOffsetThreads - 1) first[queries] = at;
}

}  // namespace zsml::cuda
