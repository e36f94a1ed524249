// The selection: products of a block of anchors with a chunk of candidates, reduced while they are in registers to the four
// hardest partners per anchor. No torch here, so that tests and micro-benchmarks reach every instruction-set variant.
#pragma once

#include <cstdint>

#include "isa.h"

namespace zsml::cpu {

template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = int32_t;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
};
template <class T>
using Integer = typename IntegerOf<T>::type;  // as wide as T, so that one mask serves both

// Rows packed for the tile: panel p holds rows p * width ... as [depth][width]; a last, partial panel is filled with zero rows.
template <class T>
struct PackedRows {
  const T* panels;             // [ceil(count / width), depth, width]
  const T* norm;               // [padded]  squared length; NaN for a row that must not be chosen, padding among them
  const Integer<T>* label;     // [padded]
  const Integer<T>* modality;  // [padded]
  int64_t count;
};

// Running winners of all anchors; value is |b|^2 - 2 a.b.
template <class T>
struct Winners {
  T* value;        // [4, stride]
  int64_t* index;  // [4, stride]
  int64_t stride;
};

// One set of rows in order of (modality, label), each row packed twice: as anchor and as candidate of the tile. Padded to whole
// panels of both; padding has a NaN length.
template <class T>
struct SortedRows {
  const T *row_panels, *col_panels;              // [padded, depth]
  const T* norm;                                 // [padded]  squared length; NaN for a row that must not be chosen
  const Integer<T>*label, *modality, *original;  // [padded]  original: where the row stood before sorting
  int64_t count;
};

// Running winners of all sorted rows, lowest original index first among equal values.
template <class T>
struct SortedWinners {
  T* value;           // [4, stride]
  Integer<T>* index;  // [4, stride]  original index, -1: none yet
  int64_t stride;
};

template <class T>
struct ExtremesKernel {
  int rows, cols;  // panel widths of anchors and candidates
  int lanes;
  // Scratch values (and as many integers) needed for `anchors` anchors.
  int64_t scratch(int64_t anchors) const { return (anchors + rows - 1) / rows * rows * 4 * lanes; }

  // Merges the candidates [first, first + candidates.count) into the winners of anchors.count anchors.
  // exclude: [anchors.count] candidate index never to be chosen, or -1. Scratch and panels aligned to 64 bytes.
  void (*update)(const PackedRows<T>& anchors, const int64_t* exclude, const PackedRows<T>& candidates, int64_t first, int64_t depth,
                 T* scratch_value, Integer<T>* scratch_index, Winners<T> winners);

  // The same for rows that are their own candidates: all tiles at or right of the diagonal of the row panels [first_panel,
  // last_panel), each used twice, for its rows and for its columns. Winners and scratch aligned to 64 bytes; stride a multiple of cols.
  void (*update_both)(const SortedRows<T>& rows, int64_t first_panel, int64_t last_panel, int64_t depth, T* scratch_value, Integer<T>* scratch_index,
                      SortedWinners<T> winners);

  // The bare tile, for tests and micro-benchmarks: product[rows, cols] of one panel with one other.
  void (*tile)(const T* a, const T* b, int64_t depth, T* product);
};

template <class T>
const ExtremesKernel<T>& extremes_kernel(Isa isa);

}  // namespace zsml::cpu
