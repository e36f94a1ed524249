// From rows as they lie in memory to panels as the tile reads them, in a frame of reference that keeps the search accurate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../hardest_pairs.h"
#include "parallel.h"

namespace zsml::cpu {

template <class S>
struct Rows {
  const S* data;  // [count, depth], contiguous
  int64_t count, depth;
  const S* row(int64_t i) const { return data + i * depth; }
};

// A power of two that brings the largest coordinate near 1 (exact, so it changes no comparison and nothing can overflow),
// and where it pays (see kCentreAbove) a shift to the mean of the candidates.
template <class T>
struct Frame {
  T scale = 1;
  std::vector<T> shift;  // [depth], in scaled units
};

template <class T, class S>
T largest_coordinate(const Rows<S>& rows, std::vector<uint8_t>& finite, ParallelFor parallel) {
  constexpr int64_t stripes = 32;  // a fixed number, so that results do not depend on the number of threads
  T largest[stripes] = {};
  finite.resize(rows.count);
  parallel(0, stripes, std::max<int64_t>(1, stripes * 16384 / (rows.count * rows.depth + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t i = rows.count * s / stripes; i < rows.count * (s + 1) / stripes; ++i) {
        T row_largest = 0;
        T poison = 0;  // 0 * x is NaN exactly where x is NaN or infinite
        for (int64_t k = 0; k < rows.depth; ++k) {
          const T value = static_cast<T>(rows.row(i)[k]);
          poison += value * T(0);
          row_largest = std::max(row_largest, std::abs(value));
        }
        finite[i] = poison == T(0);
        if (finite[i]) largest[s] = std::max(largest[s], row_largest);
      }
  });
  return *std::max_element(largest, largest + stripes);
}

// About 1 / value; never so large or small that dividing by it again leaves the range of T.
template <class T>
T power_of_two_near_inverse(T value) {
  const int limit = std::numeric_limits<T>::max_exponent - 8;
  return std::ldexp(T(1), std::clamp(-std::ilogb(value), -limit, limit));
}

template <class T, class S>
Frame<T> choose_frame(const Rows<S>& candidates, const std::vector<uint8_t>& finite, T largest, ParallelFor parallel) {
  Frame<T> frame;
  if (largest > 0) frame.scale = power_of_two_near_inverse(largest);
  const int64_t depth = candidates.depth;
  frame.shift.assign(depth, T(0));

  constexpr int64_t stripes = 32;
  std::vector<double> sum(stripes * depth, 0.0);
  double squares[stripes] = {};
  int64_t rows[stripes] = {};
  parallel(0, stripes, std::max<int64_t>(1, stripes * 16384 / (candidates.count * depth + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t j = candidates.count * s / stripes; j < candidates.count * (s + 1) / stripes; ++j) {
        if (!finite[j]) continue;
        double* own = sum.data() + s * depth;
        double length = 0;
        for (int64_t k = 0; k < depth; ++k) {
          const double value = static_cast<T>(candidates.row(j)[k]) * frame.scale;
          own[k] += value;
          length += value * value;
        }
        squares[s] += length;
        ++rows[s];
      }
  });
  double n = 0, total = 0, mean_squared = 0;
  for (int64_t s = 0; s < stripes; ++s) n += rows[s], total += squares[s];
  if (n == 0) return frame;
  for (int64_t k = 0; k < depth; ++k) {
    double mean = 0;
    for (int64_t s = 0; s < stripes; ++s) mean += sum[s * depth + k];
    sum[k] = mean / n;
    mean_squared += sum[k] * sum[k];
  }
  const double variance = std::max(0.0, total / n - mean_squared);
  if (mean_squared > kCentreAbove * variance)
    for (int64_t k = 0; k < depth; ++k) frame.shift[k] = static_cast<T>(snapped(sum[k], variance, depth));
  return frame;
}

// Rows [first, first + count) into panels of `width` rows: panels[ceil(count / width), depth, width] and their squared lengths.
// A row marked as not finite becomes zeros with a NaN length, and so does the padding of the last panel; no marks: all are finite.
template <class T, class Source>
void pack(const Source& rows, int64_t first, int64_t count, int width, const Frame<T>& frame, const std::vector<uint8_t>& finite, T* panels,
          T* norm) {
  for (int64_t start = 0; start < count; start += width) {
    T* panel = panels + start * rows.depth;
    for (int r = 0; r < width; ++r) {
      const bool use = start + r < count && (finite.empty() || finite[first + start + r]);
      const auto* source = use ? rows.row(first + start + r) : nullptr;
      T length = 0;
      for (int64_t k = 0; k < rows.depth; ++k) {
        const T value = use ? static_cast<T>(source[k]) * frame.scale - frame.shift[k] : T(0);
        panel[k * width + r] = value;
        length += value * value;
      }
      norm[start + r] = use ? length : std::numeric_limits<T>::quiet_NaN();
    }
  }
}

// sum_k ((a_k - b_k) scale)^2: no cancellation, however close the two rows are.
template <class T, class S>
T squared_distance(const S* a, const S* b, int64_t depth, T scale) {
  constexpr int lanes = 16;  // independent partial sums: vectorises, and rounds better than one long chain
  T sum[lanes] = {};
  int64_t k = 0;
  for (; k + lanes <= depth; k += lanes)
    for (int l = 0; l < lanes; ++l) {
      const T difference = (static_cast<T>(a[k + l]) - static_cast<T>(b[k + l])) * scale;
      sum[l] += difference * difference;
    }
  for (; k < depth; ++k) {
    const T difference = (static_cast<T>(a[k]) - static_cast<T>(b[k])) * scale;
    sum[k % lanes] += difference * difference;
  }
  for (int step = lanes / 2; step > 0; step /= 2)
    for (int l = 0; l < step; ++l) sum[l] += sum[l + step];
  return sum[0];
}

// sqrt(sum_k (a_k - b_k)^2); where the plain sum would over- or underflow, in units of the largest difference.
template <class T, class S>
T exact_distance(const S* a, const S* b, int64_t depth) {
  constexpr T smallest = std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon();
  const T plain = squared_distance<T>(a, b, depth, T(1));
  if (plain > smallest && plain <= std::numeric_limits<T>::max()) return std::sqrt(plain);
  T largest = 0;
  for (int64_t k = 0; k < depth; ++k) largest = std::max(largest, std::abs(static_cast<T>(a[k]) - static_cast<T>(b[k])));
  if (largest == T(0) || std::isinf(largest)) return largest;
  const T scale = power_of_two_near_inverse(largest);
  return std::sqrt(squared_distance<T>(a, b, depth, scale)) / scale;
}

}  // namespace zsml::cpu
