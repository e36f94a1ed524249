// The backward pass of hardest_pairs. With g the gradient of d(i, j):
//   d d(i, j) / d x_i = (x_i - r_j) / d(i, j) = - d d(i, j) / d r_j,  and 0 where d = 0 or d has overflowed.
// One block gathers all that belongs to one row, in ascending order of (role, anchor): no atomics, the same bits every run.
#pragma once

#include "warp.cuh"

namespace zsml::cuda {

constexpr int kGradientThreads = 256;
constexpr int kColumnsPerThread = 4;
constexpr int kGradientColumns = kGradientThreads * kColumnsPerThread;  // columns a block is responsible for; blockIdx.y picks them

template <class S, class T>
struct Pairs {
  const S* x;            // [B, D]
  const S* refs;         // [M, D]
  const T* grad;         // [4, B]
  const T* distance;     // [4, B]
  const int64_t* index;  // [4, B]
  int64_t anchors, depth;

  __device__ bool counts(int64_t at) const { return index[at] >= 0 && distance[at] > T(0) && distance[at] < infinity<T>(); }
  __device__ T weight(int64_t at) const { return grad[at] / distance[at]; }
};

// sum += weight * (from - to), on the columns of this thread
template <class S, class T>
__device__ void add_difference(const S* from, const S* to, T weight, int64_t depth, T (&sum)[kColumnsPerThread]) {
#pragma unroll
  for (int c = 0; c < kColumnsPerThread; ++c) {
    const int64_t k = blockIdx.y * static_cast<int64_t>(kGradientColumns) + c * kGradientThreads + threadIdx.x;
    if (k < depth) sum[c] += weight * (static_cast<T>(from[k]) - static_cast<T>(to[k]));
  }
}

// The pairs that chose row j, found by reading all of index: no sort, no extra memory; for small batches.
template <class S, class T>
__device__ void gather_by_scan(const Pairs<S, T>& pairs, int64_t j, T (&sum)[kColumnsPerThread]) {
  constexpr int warps = kGradientThreads / kWarp;
  __shared__ unsigned chosen[warps];
  const int64_t total = kRoles * pairs.anchors;
  for (int64_t start = 0; start < total; start += kGradientThreads) {
    const int64_t mine = start + threadIdx.x;
    const unsigned hits = __ballot_sync(kAllLanes, mine < total && pairs.index[mine] == j && pairs.counts(mine));
    if (threadIdx.x % kWarp == 0) chosen[threadIdx.x / kWarp] = hits;
    __syncthreads();
    for (int w = 0; w < warps; ++w)
      for (unsigned rest = chosen[w]; rest; rest &= rest - 1) {
        const int64_t at = start + w * kWarp + __ffs(static_cast<int>(rest)) - 1;
        add_difference(pairs.refs + j * pairs.depth, pairs.x + at % pairs.anchors * pairs.depth, pairs.weight(at), pairs.depth, sum);
      }
    __syncthreads();
  }
}

// The pairs that chose row j, as one run of `order`, which sorts index stably; for large batches.
template <class S, class T>
__device__ void gather_by_order(const Pairs<S, T>& pairs, const int64_t* sorted_index, const int64_t* order, int64_t j, T (&sum)[kColumnsPerThread]) {
  const int64_t total = kRoles * pairs.anchors;
  int64_t low = 0, high = total;
  while (low < high) {  // first position whose index is >= j
    const int64_t middle = (low + high) / 2;
    if (sorted_index[middle] < j)
      low = middle + 1;
    else
      high = middle;
  }
  for (; low < total && sorted_index[low] == j; ++low) {
    const int64_t at = order[low];
    if (pairs.counts(at))
      add_difference(pairs.refs + j * pairs.depth, pairs.x + at % pairs.anchors * pairs.depth, pairs.weight(at), pairs.depth, sum);
  }
}

// grid (rows, ceil(D / kGradientColumns)). own: add the row's four pairs as an anchor. incoming: add the pairs that chose it.
// order: the stable sort of index, or null to scan.
template <class S, class T>
__global__ void __launch_bounds__(kGradientThreads)
    pair_gradient(Pairs<S, T> pairs, bool own, bool incoming, const int64_t* __restrict__ sorted_index, const int64_t* __restrict__ order,
                  S* __restrict__ out) {  // [rows, D]
  const int64_t row = blockIdx.x;
  T sum[kColumnsPerThread] = {};
  if (own)
    for (int64_t at = row; at < kRoles * pairs.anchors; at += pairs.anchors)
      if (pairs.counts(at))
        add_difference(pairs.x + row * pairs.depth, pairs.refs + pairs.index[at] * pairs.depth, pairs.weight(at), pairs.depth, sum);
  if (incoming) {
    if (order)
      gather_by_order(pairs, sorted_index, order, row, sum);
    else
      gather_by_scan(pairs, row, sum);
  }
#pragma unroll
  for (int c = 0; c < kColumnsPerThread; ++c) {
    const int64_t k = blockIdx.y * static_cast<int64_t>(kGradientColumns) + c * kGradientThreads + threadIdx.x;
    if (k < pairs.depth) out[row * pairs.depth + k] = static_cast<S>(sum[c]);
  }
}

}  // namespace zsml::cuda
