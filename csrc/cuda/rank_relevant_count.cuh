// Ranks of the relevant items by Euclidean distance or cosine: a block of queries at a time, values first, then counts.
//
// The values of a block of queries to the whole gallery go from a register tile to a buffer about as large as the second-level cache.
// There is one value per pair, computed once: what the relevant are sorted by is what the others are compared with, to the last
// bit. Then one block per query sorts the relevant values, and every other item adds one to the count of the gap it falls into.
//
// Floor: 2 Q N D operations; the counting reads each value once more.
// Ladder (numbers belong to bench/results; none is claimed here before a GPU has run it):
//   v1  SIMT tile in the accumulation type, values in a 64 MB buffer; the relevant in shared memory where they fit; items farther
//       than all relevant are dropped, the rest search a table of equal bins, then within the bin.  <- shipped
//   next, once measured: products on tensor cores, float32 in three tf32 parts, with a second look where values nearly tie; the
//       counting fused behind the tile, so that no value is written.
#pragma once

#include <algorithm>
#include <cstddef>

#include "rank_relevant.cuh"
#include "tile.cuh"

namespace zsml::cuda {

constexpr int kRankThreads = 512;                    // large blocks: there are only as many as queries at hand
constexpr int64_t kValueBytes = int64_t{64} << 20;   // values of the queries at hand
constexpr size_t kRelevantBytes = size_t{40} << 10;  // of the 48 KB of shared memory that every device gives without being asked
constexpr int kBins = 1024;                          // of the table that leads to the gap

// Queries at hand: whole tiles where that many fit.
template <class T>
int64_t queries_at_once(int64_t queries, int64_t rows) {
  const int64_t fit = std::max<int64_t>(1, kValueBytes / (rows * static_cast<int64_t>(sizeof(T))));
  return std::min(queries, fit < TileShape<T>::height ? fit : fit / TileShape<T>::height * TileShape<T>::height);
}

// A query's relevant values and rows, sorted, and the counts of its gaps, for as many as the largest class has.
template <class T>
size_t relevant_bytes(int64_t largest) {
  return static_cast<size_t>(largest) * (sizeof(T) + 2 * sizeof(int32_t));
}

// shift [D] as the kernels use it.
template <class T>
__global__ void __launch_bounds__(kRankThreads) round_shift(const double* __restrict__ shift, int64_t depth, T* __restrict__ rounded) {
  const int64_t k = blockIdx.x * static_cast<int64_t>(kRankThreads) + threadIdx.x;
  if (k < depth) rounded[k] = static_cast<T>(shift[k]);
}

inline __device__ float add_square(float sum, float value) { return __fadd_rn(sum, __fmul_rn(value, value)); }
inline __device__ double add_square(double sum, double value) { return __dadd_rn(sum, __dmul_rn(value, value)); }

// value = plus + times <q, g>: plus |g|^2 and times -2, or 0 and -1 / |g|. One thread per row sums as csrc/cpu/pack.h does, so that
// both devices have the same bits.
template <class S, class T>
__global__ void __launch_bounds__(kRankThreads) weigh_gallery(const S* __restrict__ gallery, int64_t rows, int64_t depth, const T* __restrict__ shift,
                                                              T scale, bool cosine, T* __restrict__ plus, T* __restrict__ times) {
  const int64_t j = blockIdx.x * static_cast<int64_t>(kRankThreads) + threadIdx.x;
  if (j >= rows) return;
  if (cosine) {
    double square = 0;  // in double: a row much shorter than the longest keeps its length
    for (int64_t k = 0; k < depth; ++k) {
      const double value = static_cast<double>(static_cast<T>(gallery[j * depth + k]) * scale);
      square = add_square(square, value);
    }
    plus[j] = T(0);
    times[j] = square > 0 ? static_cast<T>(-1 / sqrt(square)) : T(0);
    return;
  }
  T square = 0;
  for (int64_t k = 0; k < depth; ++k) square = add_square(square, static_cast<T>(gallery[j * depth + k]) * scale - shift[k]);
  plus[j] = square;
  times[j] = T(-2);
}

// values [queries, N] of the queries at hand; neighbouring blocks share a tile of the gallery.
template <class S, class T>
__global__ void __launch_bounds__(TileShape<T>::threads)
    value_tiles(const S* __restrict__ query, const S* __restrict__ gallery, int64_t queries, int64_t rows, int64_t depth, const T* __restrict__ shift,
                T scale, const T* __restrict__ plus, const T* __restrict__ times, T* __restrict__ value) {
  using Shape = TileShape<T>;
  __shared__ T q_tile[Shape::step][Shape::height + 4];
  __shared__ T g_tile[Shape::step][Shape::width + 4];
  const int64_t query_tiles = (queries + Shape::height - 1) / Shape::height;
  const int64_t first_query = blockIdx.x % query_tiles * Shape::height, first_row = blockIdx.x / query_tiles * Shape::width;
  T product[Shape::rows][Shape::cols] = {};
  for (int64_t k0 = 0; k0 < depth; k0 += Shape::step) {
    load_tile<S, T, Shape::height>(query, nullptr, first_query, queries, depth, k0, scale, shift, q_tile);
    load_tile<S, T, Shape::width>(gallery, nullptr, first_row, rows, depth, k0, scale, shift, g_tile);
    __syncthreads();
    multiply_tiles(q_tile, g_tile, product);
    __syncthreads();
  }
#pragma unroll
  for (int c = 0; c < Shape::cols; ++c) {
    const int64_t j = first_row + threadIdx.x % 16 + 16 * c;
    if (j >= rows) continue;
    const T add = plus[j], factor = times[j];
#pragma unroll
    for (int r = 0; r < Shape::rows; ++r) {
      const int64_t i = first_query + threadIdx.x / 16 * Shape::rows + r;
      if (i < queries) value[i * rows + j] = add + factor * product[r][c];
    }
  }
}

// Sorts count pairs by (value, row): a bitonic network whose comparisons all put the lower first, so that what lies beyond count
// may be thought of as infinite and left out.
template <class T>
__device__ void sort_pairs(T* value, int32_t* row, int64_t count) {
  const auto put_in_order = [&](int64_t a, int64_t b) {
    if (b >= count || value[a] < value[b] || (value[a] == value[b] && row[a] < row[b])) return;
    const T v = value[a];
    const int32_t r = row[a];
    value[a] = value[b], row[a] = row[b];
    value[b] = v, row[b] = r;
  };
  for (int64_t size = 2; size / 2 < count; size *= 2) {
    const int64_t pairs = ((count + size - 1) & -size) / 2;
    for (int64_t t = threadIdx.x; t < pairs; t += kRankThreads) {
      const int64_t at = t & (size / 2 - 1), begin = 2 * (t - at);
      put_in_order(begin + at, begin + size - 1 - at);
    }
    __syncthreads();
    for (int64_t stride = size / 4; stride > 0; stride /= 2) {
      for (int64_t t = threadIdx.x; t < pairs; t += kRankThreads) {
        const int64_t low = 2 * t - (t & (stride - 1));
        put_in_order(low, low + stride);
      }
      __syncthreads();
    }
  }
}

// The first of [low, high) whose value is not below v, or with `above` is above it.
template <class T>
__device__ int search(const T* value, int low, int high, T v, bool above) {
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (above ? value[middle] <= v : value[middle] < v)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// The bin of a value no higher than the highest relevant one. Never descends as v ascends, whatever was rounded.
template <class T>
__device__ int bin_of(T v, T lowest, T per_value) {
  const T at = (v - lowest) * per_value;
  return at >= T(kBins - 1) ? kBins - 1 : at > T(0) ? static_cast<int>(at) : 0;
}

// One block per query at hand. out [3, T] is zero. Shared: values, rows and counts in shared memory, else in room_* and in out.
template <class T, bool Shared>
__global__ void __launch_bounds__(kRankThreads) count_gaps(const T* __restrict__ values, Relevant of, int64_t first_query, int64_t rows,
                                                           int64_t largest, T* room_value, int32_t* room_row, int64_t total, int32_t* out) {
  extern __shared__ double room[];
  __shared__ int32_t bin_start[kBins + 1];
  const int64_t i = first_query + blockIdx.x, count = of.count(i);
  if (count == 0) return;
  const int64_t own_class = of.query_class[i], result = of.first[i];
  const int64_t* const own = of.order + of.begin(i);
  const T* const all = values + blockIdx.x * rows;
  T* const value = Shared ? reinterpret_cast<T*>(room) : room_value + blockIdx.x * largest;
  int32_t* const row = Shared ? reinterpret_cast<int32_t*>(value + largest) : room_row + blockIdx.x * largest;
  int32_t* const gap = Shared ? row + largest : out + kNearer * total + result;  // items between a relevant value and the one before
  int32_t* const tied_before = out + kTiedBefore * total + result;
  int32_t* const tied = out + kTied * total + result;

  for (int64_t p = threadIdx.x; p < count; p += kRankThreads) {
    row[p] = static_cast<int32_t>(own[p]);
    value[p] = all[own[p]];
    gap[p] = 0;
  }
  __syncthreads();
  sort_pairs(value, row, count);

  // bin_start[b]: the first relevant value in bin b or beyond.
  const T lowest = value[0], highest = value[count - 1], width = (highest - lowest) / T(kBins);
  const T per_value = width > T(0) && T(1) / width < infinity<T>() ? T(1) / width : T(0);
  for (int64_t p = threadIdx.x; p <= count; p += kRankThreads) {
    const int from = p == 0 ? 0 : bin_of(value[p - 1], lowest, per_value) + 1;
    const int to = p == count ? kBins : bin_of(value[p], lowest, per_value);
    for (int b = from; b <= to; ++b) bin_start[b] = static_cast<int32_t>(p);
  }
  __syncthreads();

  for (int64_t j = threadIdx.x; j < rows; j += kRankThreads) {
    const T v = all[j];
    if (!(v <= highest) || of.class_of[j] == own_class) continue;
    const int bin = bin_of(v, lowest, per_value);
    const int beyond = search(value, bin_start[bin], bin_start[bin + 1], v, true);
    if (beyond < count) atomicAdd(&gap[beyond], 1);
    if (beyond == 0 || value[beyond - 1] != v) continue;
    const int equal = search(value, bin_start[bin], beyond, v, false);
    atomicAdd(&tied[equal], 1);
    const int after = search(row, equal, beyond, static_cast<int32_t>(j), true);  // the first of the equals that lies behind item j
    if (after < beyond) atomicAdd(&tied_before[after], 1);
  }
  __syncthreads();

  // Running sums: of the gaps by one warp, of the ties by whoever has the first of a run of equals.
  if (threadIdx.x < kWarp) {
    const int lane = threadIdx.x;
    int32_t before = 0;
    for (int64_t p0 = 0; p0 < count; p0 += kWarp) {
      int32_t upto = p0 + lane < count ? gap[p0 + lane] : 0;
      for (int step = 1; step < kWarp; step *= 2) {
        const int32_t lower = __shfl_up_sync(kAllLanes, upto, step);
        if (lane >= step) upto += lower;
      }
      if (p0 + lane < count) out[kNearer * total + result + p0 + lane] = before + upto;
      before += __shfl_sync(kAllLanes, upto, kWarp - 1);
    }
  }
  for (int64_t p = threadIdx.x; p < count; p += kRankThreads) {
    if (p > 0 && value[p - 1] == value[p]) continue;
    const int32_t all_tied = tied[p];
    int32_t before = 0;
    for (int64_t t = p; t < count && value[t] == value[p]; ++t) {
      before += tied_before[t];
      tied_before[t] = before, tied[t] = all_tied;
    }
  }
}

}  // namespace zsml::cuda
