// What turns a strip of values (see strip.h) into sums of exponentials, and those into gradients; every instruction-set variant.
#pragma once

#include <cstdint>

#include "../pair_softmax.h"
#include "extremes.h"
#include "isa.h"

namespace zsml::cpu {

// The row of a strip. Both sides carry what an anchor needs: in a gradient either side may hold the anchors, without refs both do.
template <class T>
struct PairRow {
  Integer<T> label, modality;
  T plus;  // to be added to each value
  AnchorPull<T> anchor;
};

// Columns of a strip from its first; lse, all and positive as in AnchorPull. Pointers that the rule below does not need may be null.
template <class T>
struct PairColumns {
  const Integer<T>*label, *modality;
  const T *lse, *all, *positive;
};

struct PairRule {
  int pairs;      // Pairs
  bool per_pair;  // positives apart from the sum
  bool row_anchors, column_anchors;
  bool over_value;  // the weight is divided by the value: distances
};

// A row's part of one strip: largest value and sum of e^(value - top), sum and number of positives.
template <class T>
struct StripSum {
  T top, sum, positive;
  int64_t positives;
};

// Of one row's positives p: sum of log(1 + e^(lse - value_p)), of sigmoid(lse - value_p), and how many.
struct StripTerms {
  double loss, pull;
  int64_t positives;
};

constexpr int64_t kTermVectors = 32;  // vectors of values whose terms are added together, see strip_terms

template <class T>
struct SoftmaxStripKernel {
  static constexpr int64_t strip = 1024;         // columns at a time
  static constexpr int64_t stride = strip + 16;  // between rows of a strip: not a multiple of 4 KB, which would share cache sets

  // All of them: one row of values, `count` a multiple of a panel's width. A value of -inf is no pair.
  StripSum<T> (*sum)(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule);  // spoils the values
  StripTerms (*terms)(const T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule);
  T (*weights)(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule);  // in place; returns their sum

  // value = -scale d from value = |c|^2 - 2 <x, c>; own = |x|^2, norm = |c|^2.
  void (*roots)(T* value, int64_t count, const T* norm, T own, T scale);

  // sum[r, :] += sum_j weight[r, j] row_j: `panels` panels of rows `stride` apart, `count` columns. rows is [depth panel][j][cols] with
  // `apart` values between depth panels; sum is [row panel][depth panel][rows][cols].
  void (*accumulate)(const T* weight, int64_t panels, int64_t count, const T* rows, int64_t apart, int64_t depth_panels, T* sum);
  // The same of the transposed weights: sum[j, :] += sum_r weight[r, j] row_r for `panels` panels of columns, `count` rows r.
  void (*accumulate_transposed)(const T* weight, int64_t panels, int64_t count, const T* rows, int64_t apart, int64_t depth_panels, T* sum);

  // For rows and columns that are each other's negatives, all of them, and values not far below `top`, where one exponential serves
  // both. Its sum over the row is returned, and it is added to column_sum.
  T (*sum_both)(const T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule, T top, T* column_sum);
  // In place: weight = e^(value - top) (row.anchor.all + columns.all).
  void (*weights_both)(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule, T top);
};

template <class T>
const SoftmaxStripKernel<T>& softmax_strip_kernel(Isa isa);

}  // namespace zsml::cpu
