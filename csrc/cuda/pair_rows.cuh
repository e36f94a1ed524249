// Rows as the products of supcon and margin_softmax take them: in the accumulation type, shifted, zeros where a row is not finite (a
// weight of zero would not silence a NaN). For the distances one more column holds ones, so that the product with the weights also
// gives their sum.
#pragma once

#include "../pair_softmax.h"
#include "warp.cuh"

namespace zsml::cuda {

constexpr int kRowsThreads = 256;  // one warp per row
constexpr int kRowsPerBlock = kRowsThreads / kWarp;

__device__ inline int64_t row_of_warp() { return blockIdx.x * static_cast<int64_t>(kRowsPerBlock) + threadIdx.x / kWarp; }

// out may be null: only finite is written then. norm may be null: no distances, no column of ones.
template <class S, class T>
__global__ void __launch_bounds__(kRowsThreads) prepare_rows(const S* __restrict__ rows,  // [count, D]
                                                             int64_t count, int64_t depth, int64_t stride,
                                                             const T* __restrict__ shift,   // [D] or null
                                                             T* __restrict__ out,           // [count, stride]
                                                             uint8_t* __restrict__ finite,  // [count]
                                                             T* __restrict__ norm) {        // [count] squared lengths
  const int64_t r = row_of_warp();
  if (r >= count) return;
  const int lane = threadIdx.x % kWarp;
  const bool usable = warp_largest<T>(rows + r * depth, depth) >= T(0);
  if (lane == 0) finite[r] = usable;
  if (!out) return;
  T square = 0;
  for (int64_t k = lane; k < depth; k += kWarp) {
    const T value = usable ? static_cast<T>(rows[r * depth + k]) - (shift ? shift[k] : T(0)) : T(0);
    out[r * stride + k] = value;
    square += value * value;
  }
  if (!norm) return;
  square = warp_sum(square);
  if (lane == 0) norm[r] = square, out[r * stride + depth] = T(1);
}

// The gradient in the type of the rows. One warp per row.
template <class S, class T>
__global__ void __launch_bounds__(kRowsThreads) store_rows(const T* __restrict__ sum,  // [count, stride], or null for zeros
                                                           int64_t count, int64_t depth, int64_t stride,
                                                           S* __restrict__ out) {  // [count, D]
  const int64_t r = row_of_warp();
  if (r >= count) return;
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) out[r * depth + k] = static_cast<S>(sum ? sum[r * stride + k] : T(0));
}

}  // namespace zsml::cuda
