// The two sides of a softmax over pairs, packed for the tile, and the values of a strip of pairs.
#pragma once

#include <utility>

#include "aligned.h"
#include "pack.h"
#include "softmax_strip.h"
#include "strip.h"

namespace zsml::cpu {

// Samples in an order of their own: place p is row order[p]. Anchors, candidates or both.
template <class S, class T>
struct PairSide {
  Rows<S> rows;
  int64_t depth;
  std::vector<int64_t> order;               // [count]
  std::vector<Integer<T>> label, modality;  // by place, padded; modality is empty where all pairs count
  std::vector<uint8_t> finite;              // by place
  std::vector<int64_t> skip;                // by place: the place on the other side that is no partner, or -1; empty: none
  std::vector<T> lse, all, positive;        // by place, padded: AnchorPull; empty where this side's losses give no gradient

  PairSide(Rows<S> samples, std::vector<int64_t> places, const std::vector<uint8_t>& finite_rows)
      : rows(samples), depth(samples.depth), order(std::move(places)), finite(samples.count) {
    for (int64_t p = 0; p < count(); ++p) finite[p] = finite_rows[order[p]];
  }

  int64_t count() const { return rows.count; }
  const S* row(int64_t place) const { return rows.row(order[place]); }
  int64_t padded() const { return count() + 64; }  // whole panels are read from any place on

  // The side's samples as anchors with known sums; pull(row) is the AnchorPull of a sample.
  template <class Pull>
  void set_pulls(const Pull& pull) {
    for (auto* values : {&lse, &all, &positive}) values->assign(padded(), T(0));
    for (int64_t p = 0; p < count(); ++p) {
      const AnchorPull<T> own = pull(order[p]);
      lse[p] = own.lse, all[p] = own.all, positive[p] = own.positive;
    }
  }
};

// How the product of two samples becomes a value: plus + times * product, plus of the column (and of the row, see PairRow).
template <class T>
struct PairMeasure {
  int measure;
  T scale;

  T times() const { return measure == kInner ? scale : measure == kSquaredDistance ? 2 * scale : T(-2); }
  T plus(T norm) const { return measure == kInner ? T(0) : measure == kSquaredDistance ? -scale * norm : norm; }
  T row_plus(T norm) const { return measure == kSquaredDistance ? plus(norm) : T(0); }
  // Makes a column a pair of nobody: every value becomes -inf.
  T never() const { return (measure == kDistance ? 1 : -1) * std::numeric_limits<T>::infinity(); }
};

// Places [first, first + count) of a side as columns: for the product, and if asked for as accumulate() takes them.
template <class T>
struct PackedColumns {
  int64_t capacity;                // a multiple of a panel's width
  Aligned<T> panels, plus, times;  // [capacity, D], [capacity], [capacity]
  Aligned<T> coordinates;          // [depth panels, capacity, cols]
  bool with_coordinates;
  int64_t first = 0, count = 0;
  PackedColumns(int64_t room, int64_t depth, int64_t padded_depth)
      : capacity(room), panels(room * depth), plus(room), times(room), coordinates(room * padded_depth), with_coordinates(padded_depth > 0) {}
};

// Rows [row, row + rows) against columns [column, column + columns) of their sides.
template <class T>
struct PairStrip {
  int64_t row, rows;
  T* value;                                     // [rows, SoftmaxStripKernel::stride]
  const T* norm;                                // [rows] squared lengths in the frame
  int64_t column = 0, columns = 0, padded = 0;  // padded: columns up to a whole panel
  const T* coordinates = nullptr;               // of the columns, `apart` between depth panels
  int64_t apart = 0;
};

// What all pairs of one call have in common.
template <class S, class T>
struct PairSetting {
  using Side = PairSide<S, T>;

  PairMeasure<T> measure;
  Frame<T> frame;
  ParallelFor parallel;
  int threads;
  const StripKernel<T>& tile;
  const SoftmaxStripKernel<T>& kernel;

  PairSetting(PairMeasure<T> measure_, Frame<T> frame_, ParallelFor parallel_, int threads_, Isa isa)
      : measure(measure_),
        frame(std::move(frame_)),
        parallel(parallel_),
        threads(threads_),
        tile(strip_kernel<T>(isa)),
        kernel(softmax_strip_kernel<T>(isa)) {}

  int64_t panels_of_rows(int64_t rows) const { return (rows + tile.rows - 1) / tile.rows; }
  int64_t padded(int64_t columns) const { return (columns + tile.cols - 1) / tile.cols * tile.cols; }
  int64_t depth_panels(int64_t depth) const { return padded(depth) / tile.cols; }
  int64_t tile_size() const { return tile.rows * tile.cols; }

  void fill(PackedColumns<T>& packed, const Side& columns, int64_t first, int64_t count) const {
    const int64_t width = tile.cols, depth = columns.depth;
    packed.first = first, packed.count = count;
    parallel(0, (count + width - 1) / width, 1 + 16384 / (width * depth), [&](int64_t begin, int64_t end) {
      begin *= width, end = std::min(end * width, count);
      T *plus = packed.plus.memory, *times = packed.times.memory;
      pack(columns, first + begin, end - begin, tile.cols, frame, columns.finite, packed.panels.memory + begin * depth, plus + begin);
      for (int64_t j = begin; j < padded(end); ++j) {
        plus[j] = std::isnan(plus[j]) ? measure.never() : measure.plus(plus[j]);
        times[j] = measure.times();
      }
      for (int64_t j = begin; packed.with_coordinates && j < end; ++j) fill_coordinates(packed, columns, j);
    });
  }

  // Values of strip.rows rows, given as panels, and packed columns from `j` on.
  void values(const Side& rows, const T* panels, const Side& columns, const PackedColumns<T>& packed, int64_t j, int64_t count,
              PairStrip<T>& strip) const {
    strip.column = packed.first + j, strip.columns = count, strip.padded = padded(count);
    strip.coordinates = packed.coordinates.memory + j * tile.cols, strip.apart = packed.capacity * tile.cols;
    tile.values(panels, panels_of_rows(strip.rows), packed.panels.memory + j * rows.depth, strip.padded / tile.cols, rows.depth,
                packed.plus.memory + j, packed.times.memory + j, strip.value, kernel.stride);
    for (int64_t r = 0; measure.measure == kDistance && r < strip.rows; ++r)
      kernel.roots(strip.value + r * kernel.stride, strip.padded, packed.plus.memory + j, strip.norm[r], measure.scale);
    const T nothing = -std::numeric_limits<T>::infinity();
    for (int64_t r = 0; !rows.skip.empty() && r < strip.rows; ++r) {
      const int64_t at = rows.skip[strip.row + r] - strip.column;
      if (at >= 0 && at < count) strip.value[r * kernel.stride + at] = nothing;
    }
    for (int64_t c = 0; !columns.skip.empty() && c < count; ++c) {
      const int64_t at = columns.skip[strip.column + c] - strip.row;
      if (at >= 0 && at < strip.rows) strip.value[at * kernel.stride + c] = nothing;
    }
  }

  // Calls body(place of the row, its values, the strip's columns, the row).
  template <class Body>
  void for_rows(const PairStrip<T>& strip, const Side& rows, const Side& columns, const Body& body) const {
    const auto from = [&](const auto& values) { return values.empty() ? nullptr : values.data() + strip.column; };
    const PairColumns<T> cols{from(columns.label), from(columns.modality), from(columns.lse), from(columns.all), from(columns.positive)};
    for (int64_t r = 0; r < strip.rows; ++r) {
      const int64_t place = strip.row + r;
      PairRow<T> row{rows.label[place], rows.modality.empty() ? 0 : rows.modality[place], measure.row_plus(strip.norm[r]), {0, 0, 0}};
      if (!rows.lse.empty()) row.anchor = {rows.lse[place], rows.all[place], rows.positive[place]};
      body(place, strip.value + r * kernel.stride, cols, row);
    }
  }

 private:
  void fill_coordinates(PackedColumns<T>& packed, const Side& columns, int64_t j) const {
    const int64_t width = tile.cols, depth = columns.depth;
    const S* source = columns.finite[packed.first + j] ? columns.row(packed.first + j) : nullptr;
    for (int64_t d = 0; d < depth_panels(depth); ++d) {
      T* target = packed.coordinates.memory + (d * packed.capacity + j) * width;
      const int64_t from = d * width, here = source ? std::min(width, depth - from) : 0;
      for (int64_t k = 0; k < here; ++k) target[k] = static_cast<T>(source[from + k]) * frame.scale - frame.shift[from + k];
      std::fill(target + here, target + width, T(0));
    }
  }
};

}  // namespace zsml::cpu
