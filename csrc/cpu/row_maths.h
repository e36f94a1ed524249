// Loops over the coordinates of single rows: measuring, packing, adding. One copy per instruction set, chosen at run time.
#pragma once

#include <cstdint>

#include "isa.h"

namespace zsml::cpu {

template <class T>
struct RowMaths {
  // max_k |row[k]|; `finite` tells whether all are finite (the result means nothing where they are not).
  T (*largest)(const T* row, int64_t depth, bool& finite);

  // sum_k ((row[k] * scale - shift[k]))^2
  T (*squared_length)(const T* row, int64_t depth, T scale, const T* shift);

  // sum_k ((a[k] - b[k]) * scale)^2
  T (*squared_distance)(const T* a, const T* b, int64_t depth, T scale);

  // sum_k a[k] * b[k]
  T (*inner)(const T* a, const T* b, int64_t depth);

  // sum[k] += weight * (from[k] - to[k])
  void (*add_difference)(T* sum, const T* from, const T* to, int64_t depth, T weight);

  // sum[k] = (sum[k] - weight * row[k]) * scale
  void (*subtract_and_scale)(T* sum, const T* row, int64_t depth, T weight, double scale);

  // sum[k] += row[k] * scale
  void (*add_to)(double* sum, const T* row, int64_t depth, T scale);

  // panel[k, r] = row[r][k] * scale - shift[k] for `width` rows
  void (*pack)(const T* const* row, int64_t width, int64_t depth, T scale, const T* shift, T* panel);
};

template <class T>
const RowMaths<T>& row_maths(Isa isa);

}  // namespace zsml::cpu
