// From rows as they lie in memory to panels as the tile reads them, in a frame of reference that keeps the search accurate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "../hardest_pairs.h"
#include "isa.h"
#include "parallel.h"
#include "row_maths.h"

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

// A row in the type that is computed with: itself, or a converted copy in `buffer`.
template <class T, class S>
const T* in_type(const S* row, int64_t depth, std::vector<T>& buffer) {
  if constexpr (std::is_same_v<S, T>) return row;
  buffer.resize(depth);
  for (int64_t k = 0; k < depth; ++k) buffer[k] = static_cast<T>(row[k]);
  return buffer.data();
}

// Rows are gone through in stripes whose number depends on their size alone, so that results do not depend on the number of threads.
constexpr int64_t kStripes = 32;
inline int64_t stripes(int64_t count, int64_t depth) { return std::clamp<int64_t>(count * depth >> 14, 1, kStripes); }

// body(stripe, begin, end) for every stripe of `count` rows; in the caller's thread where there is little to do.
template <class Body>
void over_stripes(int64_t count, int64_t depth, ParallelFor parallel, const Body& body) {
  const int64_t all = stripes(count, depth);
  const auto some = [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) body(s, count * s / all, count * (s + 1) / all);
  };
  if (count * depth <= 1 << 17)
    some(0, all);
  else
    parallel(0, all, 1, some);
}

template <class T, class S>
T largest_coordinate(const Rows<S>& rows, std::vector<uint8_t>& finite, ParallelFor parallel) {
  const RowMaths<T>& maths = row_maths<T>(best_isa());
  T largest[kStripes] = {};
  finite.resize(rows.count);
  over_stripes(rows.count, rows.depth, parallel, [&](int64_t s, int64_t begin, int64_t end) {
    std::vector<T> buffer;
    for (int64_t i = begin; i < end; ++i) {
      bool usable;
      const T own = maths.largest(in_type<T>(rows.row(i), rows.depth, buffer), rows.depth, usable);
      finite[i] = usable;
      if (usable) largest[s] = std::max(largest[s], own);
    }
  });
  return *std::max_element(largest, largest + kStripes);
}

// About 1 / value; never so large or small that dividing by it again leaves the range of T.
template <class T>
T power_of_two_near_inverse(T value) {
  const int limit = std::numeric_limits<T>::max_exponent - 8;
  return std::ldexp(T(1), std::clamp(-std::ilogb(value), -limit, limit));
}

template <class T, class S>
Frame<T> choose_frame(const Rows<S>& candidates, const std::vector<uint8_t>& finite, T largest, ParallelFor parallel,
                      double centre_above = kCentreAbove) {
  Frame<T> frame;
  if (largest > 0) frame.scale = power_of_two_near_inverse(largest);
  const int64_t depth = candidates.depth;
  frame.shift.assign(depth, T(0));

  const RowMaths<T>& maths = row_maths<T>(best_isa());
  const std::vector<T> none(depth, T(0));
  const int64_t all = stripes(candidates.count, depth);
  std::vector<double> sum(all * depth, 0.0);
  double squares[kStripes] = {};
  int64_t rows[kStripes] = {};
  over_stripes(candidates.count, depth, parallel, [&](int64_t s, int64_t begin, int64_t end) {
    std::vector<T> buffer;
    for (int64_t j = begin; j < end; ++j) {
      if (!finite[j]) continue;
      const T* row = in_type<T>(candidates.row(j), depth, buffer);
      maths.add_to(sum.data() + s * depth, row, depth, frame.scale);
      squares[s] += static_cast<double>(maths.squared_length(row, depth, frame.scale, none.data()));
      ++rows[s];
    }
  });
  double n = 0, total = 0, mean_squared = 0;
  for (int64_t s = 0; s < all; ++s) n += rows[s], total += squares[s];
  if (n == 0) return frame;
  for (int64_t k = 0; k < depth; ++k) {
    double mean = 0;
    for (int64_t s = 0; s < all; ++s) mean += sum[s * depth + k];
    sum[k] = mean / n;
    mean_squared += sum[k] * sum[k];
  }
  const double variance = std::max(0.0, total / n - mean_squared);
  if (mean_squared > centre_above * variance)
    for (int64_t k = 0; k < depth; ++k) frame.shift[k] = static_cast<T>(snapped(sum[k], variance, depth));
  return frame;
}

// Rows [first, first + count) into panels of `width` rows: panels[ceil(count / width), depth, width] and their squared lengths.
// A row marked as not finite becomes zeros with a NaN length, and so does the padding of the last panel; no marks: all are finite.
template <class T, class Source>
void pack(const Source& rows, int64_t first, int64_t count, int width, const Frame<T>& frame, const std::vector<uint8_t>& finite, T* panels,
          T* norm) {
  const RowMaths<T>& maths = row_maths<T>(best_isa());
  const int64_t depth = rows.depth;
  std::vector<const T*> row(width);
  std::vector<std::vector<T>> buffer(width);
  for (int64_t start = 0; start < count; start += width) {
    T* panel = panels + start * depth;
    const T* any = nullptr;  // stands in for rows that must not be used, whose columns are then cleared
    for (int r = 0; r < width; ++r) {
      const bool use = start + r < count && (finite.empty() || finite[first + start + r]);
      row[r] = use ? in_type<T>(rows.row(first + start + r), depth, buffer[r]) : nullptr;
      if (use) any = row[r];
      norm[start + r] = use ? maths.squared_length(row[r], depth, frame.scale, frame.shift.data()) : std::numeric_limits<T>::quiet_NaN();
    }
    if (any == nullptr) {
      std::fill_n(panel, width * depth, T(0));
      continue;
    }
    std::replace(row.begin(), row.end(), static_cast<const T*>(nullptr), any);
    maths.pack(row.data(), width, depth, frame.scale, frame.shift.data(), panel);
    for (int r = 0; r < width; ++r)
      if (std::isnan(norm[start + r]))
        for (int64_t k = 0; k < depth; ++k) panel[k * width + r] = T(0);
  }
}

// sum_k ((a_k - b_k) scale)^2: no cancellation, however close the two rows are.
template <class T, class S>
T squared_distance(const S* a, const S* b, int64_t depth, T scale) {
  if constexpr (std::is_same_v<S, T>) return row_maths<T>(best_isa()).squared_distance(a, b, depth, scale);
  constexpr int lanes = 16;  // independent partial sums: vectorises, and rounds better than one long chain
  T sum[lanes] = {};
  for (int64_t k = 0; k < depth; ++k) {
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
