// The frame of reference of the tiled search (see kCentreAbove in hardest_pairs.h): scale, shift, and squared lengths in it.
#pragma once

#include "warp.cuh"

namespace zsml::cuda {

constexpr int kRowThreads = 256;  // one warp per row
constexpr int kStripes = 64;      // the rows are summed in a fixed number of stripes, so results never depend on the device
constexpr int kColumnsPerBlock = kWarp;
constexpr int kStripeRows = 8;  // rows a stripe's block looks at side by side
constexpr int kShiftThreads = 256;

// Raises a non-negative maximum: such numbers are ordered like their bits.
__device__ inline void raise(float* maximum, float value) { atomicMax(reinterpret_cast<int*>(maximum), __float_as_int(value)); }
__device__ inline void raise(double* maximum, double value) {
  atomicMax(reinterpret_cast<long long*>(maximum), static_cast<long long>(__double_as_longlong(value)));
}

// finite[r] and the largest coordinate of all finite rows; *largest starts at 0.
template <class S, class T>
__global__ void __launch_bounds__(kRowThreads)
    inspect_rows(const S* __restrict__ rows, int64_t count, int64_t depth, uint8_t* __restrict__ finite, T* __restrict__ largest) {
  const int64_t r = blockIdx.x * static_cast<int64_t>(kRowThreads / kWarp) + threadIdx.x / kWarp;
  if (r >= count) return;
  const T row = warp_largest<T>(rows + r * depth, depth);
  if (threadIdx.x % kWarp == 0) {
    finite[r] = row >= T(0);
    if (row > T(0)) raise(largest, row);
  }
}

// Per stripe of rows: the sum of each column and of all squares, over finite rows, in scaled units.
// grid (ceil(D / 32), kStripes), block (32, kStripeRows)
template <class S, class T>
__global__ void sum_columns(const S* __restrict__ rows, const uint8_t* __restrict__ finite, int64_t count, int64_t depth,
                            const T* __restrict__ largest,
                            double* __restrict__ column_sum,    // [kStripes, D]
                            double* __restrict__ square_sum) {  // [kStripes, D]
  __shared__ double sums[kStripeRows][kColumnsPerBlock], squares[kStripeRows][kColumnsPerBlock];
  const int64_t k = blockIdx.x * static_cast<int64_t>(kColumnsPerBlock) + threadIdx.x;
  const int64_t stripe = blockIdx.y;
  const T scale = frame_scale(*largest);
  double sum = 0, square = 0;
  if (k < depth)
    for (int64_t r = count * stripe / kStripes + threadIdx.y; r < count * (stripe + 1) / kStripes; r += kStripeRows) {
      if (!finite[r]) continue;
      const double value = static_cast<T>(rows[r * depth + k]) * scale;
      sum += value;
      square += value * value;
    }
  sums[threadIdx.y][threadIdx.x] = sum;
  squares[threadIdx.y][threadIdx.x] = square;
  __syncthreads();
  if (threadIdx.y != 0 || k >= depth) return;
  for (int y = 1; y < kStripeRows; ++y) sum += sums[y][threadIdx.x], square += squares[y][threadIdx.x];
  column_sum[stripe * depth + k] = sum;
  square_sum[stripe * depth + k] = square;
}

// Sums a value over a block of kShiftThreads threads; every thread gets the result.
__device__ inline double block_sum(double value, double* shared) {  // shared [kShiftThreads / kWarp]
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kShiftThreads / kWarp; ++w) value += shared[w];
  return value;
}

// The shift: the mean of the candidates, on a grid, where it is much longer than their spread, else 0; *centred says which. One block.
template <class T>
__global__ void __launch_bounds__(kShiftThreads) choose_shift(const double* __restrict__ column_sum, const double* __restrict__ square_sum,
                                                              const uint8_t* __restrict__ finite, int64_t count, int64_t depth,
                                                              T* __restrict__ shift,  // [D]
                                                              int* __restrict__ centred) {
  __shared__ double shared[kShiftThreads / kWarp];
  double rows = 0, mean_squared = 0, squares = 0;
  for (int64_t r = threadIdx.x; r < count; r += kShiftThreads) rows += finite[r];
  rows = block_sum(rows, shared);
  for (int64_t k = threadIdx.x; k < depth; k += kShiftThreads) {
    double mean = 0;
    for (int64_t s = 0; s < kStripes; ++s) mean += column_sum[s * depth + k], squares += square_sum[s * depth + k];
    mean = rows > 0 ? mean / rows : 0;
    mean_squared += mean * mean;
    shift[k] = static_cast<T>(mean);
  }
  mean_squared = block_sum(mean_squared, shared);
  squares = block_sum(squares, shared);
  const double variance = rows > 0 && squares / rows > mean_squared ? squares / rows - mean_squared : 0;
  const bool centre = mean_squared > kCentreAbove * variance;
  if (threadIdx.x == 0) *centred = centre;
  for (int64_t k = threadIdx.x; k < depth; k += kShiftThreads) shift[k] = centre ? static_cast<T>(snapped(shift[k], variance, depth)) : T(0);
}

// Squared lengths in the frame; NaN for a row that must not be chosen.
template <class S, class T>
__global__ void __launch_bounds__(kRowThreads)
    measure_rows(const S* __restrict__ rows, const uint8_t* __restrict__ finite, int64_t count, int64_t depth, const T* __restrict__ largest,
                 const T* __restrict__ shift, T* __restrict__ norm) {
  const int64_t r = blockIdx.x * static_cast<int64_t>(kRowThreads / kWarp) + threadIdx.x / kWarp;
  if (r >= count) return;
  const T scale = frame_scale(*largest);
  T sum = 0;
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) {
    const T value = static_cast<T>(rows[r * depth + k]) * scale - shift[k];
    sum += value * value;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) norm[r] = finite[r] ? sum : static_cast<T>(NAN);
}

}  // namespace zsml::cuda
