// modality_triplet on a GPU: what comes before and after the hardest pairs, each in one launch.
//
// Ladder (none timed yet on a GPU):
//   v1  unit rows, pairs, loss, and backwards scaled slopes, gathered pairs, projection: three launches each way, where the same
//       in torch takes about forty.  <- shipped
#pragma once

#include "../modality_triplet.h"
#include "warp.cuh"

namespace zsml::cuda {

constexpr int kUnitThreads = 256;  // one warp per row
constexpr int kLossThreads = 256;

// unit[i] = x[i] / |x[i]| and length[i] = |x[i]|; a row of zeros stays one, of length 1; NaN throughout a row that is not finite.
template <class S, class T>
__global__ void __launch_bounds__(kUnitThreads)
    unit_rows(const S* __restrict__ x, int64_t count, int64_t depth, T* __restrict__ unit, double* __restrict__ length) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kUnitThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= count) return;
  const S* row = x + i * depth;
  const int lane = threadIdx.x % kWarp;
  const T largest = warp_largest<T>(row, depth);
  const T scale = frame_scale(largest);
  T sum = 0;
  for (int64_t k = lane; k < depth; k += kWarp) {
    const T value = static_cast<T>(row[k]) * scale;
    sum += value * value;
  }
  const T own = sqrt(warp_sum(sum));
  for (int64_t k = lane; k < depth; k += kWarp) {
    const T value = static_cast<T>(row[k]) * scale;  // not scale / own first: it overflows for subnormal rows
    unit[i * depth + k] = largest > T(0) ? value / own : largest == T(0) ? T(0) : static_cast<T>(NAN);
  }
  if (lane == 0) length[i] = largest > T(0) ? static_cast<double>(own) / static_cast<double>(scale) : 1.0;
}

// Sums a value over a block of kLossThreads threads, always in the same order; every thread gets the result.
__device__ inline double loss_block_sum(double value, double* shared) {  // shared [kLossThreads / kWarp]
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kLossThreads / kWarp; ++w) value += shared[w];
  return value;
}

// loss [] and slope [4, B] from distance [4, B]; one block.
template <class T>
__global__ void __launch_bounds__(kLossThreads) triplet_loss(const T* __restrict__ distance, int64_t anchors, int terms, double margin, double beta,
                                                             int weighting, T* __restrict__ loss, T* __restrict__ slope) {
  __shared__ double shared[kLossThreads / kWarp];
  double mean_phi[kTerms], mean_hardness[kTerms];
#pragma unroll
  for (int t = 0; t < kTerms; ++t) {
    double phi = 0, hardness = 0;
    if (terms >> t & 1)
      for (int64_t i = threadIdx.x; i < anchors; i += kLossThreads) {
        const double v =
            static_cast<double>(distance[term_positive(t) * anchors + i]) - static_cast<double>(distance[term_negative(t) * anchors + i]) + margin;
        phi += triplet_phi(v, beta);
        if (weighting != kEqual) hardness += triplet_sigmoid(beta * v);
      }
    mean_phi[t] = loss_block_sum(phi, shared) / static_cast<double>(anchors);
    mean_hardness[t] = loss_block_sum(hardness, shared) / static_cast<double>(anchors);
  }
  const TripletWeights weights(terms, weighting, mean_phi, mean_hardness);
  if (threadIdx.x == 0) *loss = static_cast<T>(weights.loss);
  for (int64_t i = threadIdx.x; i < anchors; i += kLossThreads) {
    double own[kRoles] = {};
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      if (!(terms >> t & 1)) continue;
      const double v =
          static_cast<double>(distance[term_positive(t) * anchors + i]) - static_cast<double>(distance[term_negative(t) * anchors + i]) + margin;
      const double hardness = beta == 0 ? 0 : triplet_sigmoid(beta * v);
      const double by_violation = weights.by_term[t] * triplet_slope(v, hardness, beta) + weights.by_hardness[t] * beta * hardness * (1 - hardness);
      own[term_positive(t)] += by_violation / static_cast<double>(anchors);
      own[term_negative(t)] -= by_violation / static_cast<double>(anchors);
    }
#pragma unroll
    for (int role = 0; role < kRoles; ++role) slope[role * anchors + i] = static_cast<T>(own[role]);
  }
}

// scaled = factor * slope, all [4, B]
template <class T>
__global__ void scale_slopes(const T* __restrict__ factor, const T* __restrict__ slope, int64_t count, T* __restrict__ scaled) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (at < count) scaled[at] = *factor * slope[at];
}

// Through u = x / |x|: out = (g - u <u, g>) / |x|; 0 for a row that is not finite. One warp per row.
template <class S, class T>
__global__ void __launch_bounds__(kUnitThreads) project_rows(const T* __restrict__ gradient, const T* __restrict__ unit,
                                                             const double* __restrict__ length, int64_t count, int64_t depth, S* __restrict__ out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kUnitThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= count) return;
  const int lane = threadIdx.x % kWarp;
  T along = 0;
  for (int64_t k = lane; k < depth; k += kWarp) along += gradient[i * depth + k] * unit[i * depth + k];
  along = warp_sum(along);
  const bool usable = along == along;
  for (int64_t k = lane; k < depth; k += kWarp) {
    const T g = gradient[i * depth + k];
    out[i * depth + k] = usable ? static_cast<S>(static_cast<double>(g - along * unit[i * depth + k]) / length[i]) : static_cast<S>(g);
  }
}

}  // namespace zsml::cuda
