// Warp-level sums, maxima and row measurements shared by the kernels. A butterfly leaves the same bits in every lane.
#pragma once

#include <cstdint>
#include <limits>

#include "../hardest_pairs.h"

namespace zsml::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

template <class T>
__device__ T warp_max(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  return value;
}

template <class T>
__device__ T infinity() {
  return static_cast<T>(INFINITY);
}

// What a role starts from: nothing is nearer than -inf or farther than +inf.
template <class T>
__device__ T worst(int role) {
  return is_positive(role) ? -infinity<T>() : infinity<T>();
}

// Does candidate j with this value beat the winner so far? A tie goes to the lower index; index -1 stands for no winner.
template <class T>
__device__ bool beats(int role, T value, int64_t j, T best, int64_t best_j) {
  if (j < 0) return false;
  if (best_j < 0) return value == value;
  if (value == best) return j < best_j;
  return is_positive(role) ? value > best : value < best;
}

// Sums of squares below this may have lost digits to underflow.
template <class T>
constexpr T kVanishing = std::numeric_limits<T>::min() / (std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon());

// A power of two that brings the largest coordinate near 1: exact, and nothing can overflow.
template <class T>
__device__ T frame_scale(T largest) {
  const int limit = sizeof(T) == 8 ? 1016 : 120;
  if (!(largest > T(0))) return T(1);
  int exponent = -ilogb(largest);
  exponent = exponent < -limit ? -limit : exponent > limit ? limit : exponent;
  return static_cast<T>(ldexp(T(1), exponent));
}

// One warp looks at one row: its largest coordinate, or a negative value where a coordinate is NaN or infinite.
template <class T, class S>
__device__ T warp_largest(const S* row, int64_t depth) {
  T largest = 0, poison = 0;  // 0 * x is NaN exactly where x is NaN or infinite
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) {
    const T value = static_cast<T>(row[k]);
    poison += value * T(0);
    const T size = value < T(0) ? -value : value;
    largest = size > largest ? size : largest;
  }
  poison = warp_sum(poison);
  largest = warp_max(largest);
  return poison == T(0) ? largest : T(-1);
}

// sum_k ((a_k - b_k) scale)^2, without cancellation however close the two are.
template <class T, class S>
__device__ T warp_squared_distance(const S* a, const S* b, int64_t depth, T scale) {
  T sum = 0;
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) {
    const T difference = (static_cast<T>(a[k]) - static_cast<T>(b[k])) * scale;
    sum += difference * difference;
  }
  return warp_sum(sum);
}

// One warp measures one pair: sqrt(sum_k (a_k - b_k)^2); where the plain sum would over- or underflow, in units of the largest
// difference. Infinite where a difference is; every lane takes the same branch, for all hold the same bits.
template <class T, class S>
__device__ T warp_distance(const S* a, const S* b, int64_t depth) {
  const T plain = warp_squared_distance(a, b, depth, T(1));
  if (plain > kVanishing<T> && plain < infinity<T>()) return sqrt(plain);
  T largest = 0;
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) {
    const T difference = static_cast<T>(a[k]) - static_cast<T>(b[k]), size = difference < T(0) ? -difference : difference;
    largest = size > largest ? size : largest;
  }
  largest = warp_max(largest);
  if (largest == infinity<T>()) return largest;
  const T scale = frame_scale(largest);
  return sqrt(warp_squared_distance(a, b, depth, scale)) / scale;
}

}  // namespace zsml::cuda
