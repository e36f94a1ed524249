// Streams all pairs of two sides past a visitor: blocks of rows against strips of columns, whose values lie in the cache.
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

  int64_t count() const { return rows.count; }
  const S* row(int64_t place) const { return rows.row(order[place]); }

  PairSide(Rows<S> samples, std::vector<int64_t> places, const std::vector<uint8_t>& finite_rows)
      : rows(samples), depth(samples.depth), order(std::move(places)), finite(samples.count) {
    for (int64_t p = 0; p < count(); ++p) finite[p] = finite_rows[order[p]];
  }

  // Vectors of a panel's width are read from any place.
  int64_t padded() const { return count() + 64; }

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

// What a visitor gets: rows [row, row + rows) against columns [column, column + columns) of their sides.
template <class T>
struct PairStrip {
  int64_t row, rows, column, columns, padded;  // padded: columns up to a whole panel
  T* value;                                    // [rows, SoftmaxStripKernel::stride]
  const T* norm;                               // [rows] squared lengths in the frame
  const T* panels;                             // columns' coordinates as accumulate() takes them, `apart` between depth panels
  int64_t apart;
};

template <class S, class T>
class PairStream {
 public:
  using Side = PairSide<S, T>;
  using Span = std::pair<int64_t, int64_t>;

  PairStream(PairMeasure<T> measure, Frame<T> frame, ParallelFor parallel, int threads, Isa isa)
      : measure_(measure),
        frame_(std::move(frame)),
        parallel_(parallel),
        threads_(threads),
        tile_(strip_kernel<T>(isa)),
        kernel_(softmax_strip_kernel<T>(isa)) {}

  const SoftmaxStripKernel<T>& kernel() const { return kernel_; }
  const PairMeasure<T>& measure() const { return measure_; }
  const Frame<T>& frame() const { return frame_; }
  ParallelFor parallel() const { return parallel_; }
  int64_t panel_rows() const { return tile_.rows; }
  int64_t panel_columns() const { return tile_.cols; }
  int64_t depth_panels(int64_t depth) const { return (depth + tile_.cols - 1) / tile_.cols; }

  // Rows [first, last) of `rows` against all columns. span(row, rows) says which columns a block of rows wants. A block's strips are visited
  // by one thread in ascending order. Where `coordinates` is set, the columns also come as accumulate() takes them.
  template <class Want, class Visit>
  void run(const Side& rows, int64_t first, int64_t last, const Side& columns, bool coordinates, const Want& span, const Visit& visit) const {
    const int64_t depth = rows.depth;
    // A chunk of columns is packed at a time, shared by the threads, and stays in the third-level cache.
    const int64_t strips = std::clamp<int64_t>((4 << 20) / (kStrip * depth * static_cast<int64_t>(sizeof(T))), 1, 16);
    Chunk chunk(std::min(strips * kStrip, padded(columns.count())), depth, coordinates ? depth_panels(depth) * tile_.cols : 0);
    std::fill_n(chunk.times.memory, chunk.capacity, measure_.times());
    const int64_t block = block_rows(last - first, depth, coordinates);
    for (int64_t start = 0; start < columns.count(); start += chunk.capacity) {
      chunk.first = start;
      chunk.count = std::min(chunk.capacity, columns.count() - start);
      fill(chunk, columns);
      parallel_(0, (last - first + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
        Aligned<T> panels(block * depth), norm(block), value(block * kernel_.stride);
        for (int64_t b = begin; b < end; ++b) {
          const int64_t row = first + b * block, count = std::min(block, last - row);
          const Span wanted = span(row, count);
          if (wanted.second <= start || wanted.first >= start + chunk.count) continue;
          pack(rows, row, count, tile_.rows, frame_, rows.finite, panels.memory, norm.memory);
          visit_strips(rows, {row, count, 0, 0, 0, value.memory, norm.memory, nullptr, 0}, panels.memory, columns, chunk, wanted, visit);
        }
      });
    }
  }

 private:
  static constexpr int64_t kStrip = SoftmaxStripKernel<T>::strip;

  struct Chunk {
    int64_t capacity;
    Aligned<T> panels, plus, times, coordinates;
    int64_t first = 0, count = 0;
    Chunk(int64_t room, int64_t depth, int64_t padded_depth)
        : capacity(room), panels(room * depth), plus(room), times(room), coordinates(room * padded_depth), with_coordinates(padded_depth > 0) {}
    bool with_coordinates;
  };

  int64_t padded(int64_t columns) const { return (columns + tile_.cols - 1) / tile_.cols * tile_.cols; }

  // As many rows as keep their panels, values and sums in the second-level cache, unless a thread would go without.
  int64_t block_rows(int64_t rows, int64_t depth, bool sums) const {
    const int64_t bytes = static_cast<int64_t>(sizeof(T)) * (depth * (sums ? 2 : 1) + kernel_.stride);
    const int64_t by_cache = std::clamp<int64_t>((480 << 10) / bytes, 1, 128);
    const int64_t by_threads = (rows + threads_ - 1) / threads_;
    return std::max<int64_t>(1, (std::min(by_cache, by_threads) + tile_.rows / 2) / tile_.rows) * tile_.rows;
  }

  void fill(Chunk& chunk, const Side& columns) const {
    const int64_t width = tile_.cols, depth = columns.depth;
    parallel_(0, (chunk.count + width - 1) / width, 1 + 16384 / (width * depth), [&](int64_t begin, int64_t end) {
      begin *= width, end = std::min(end * width, chunk.count);
      pack(columns, chunk.first + begin, end - begin, tile_.cols, frame_, columns.finite, chunk.panels.memory + begin * depth,
           chunk.plus.memory + begin);
      for (int64_t j = begin; j < padded(end); ++j) {
        T& plus = chunk.plus.memory[j];
        plus = std::isnan(plus) ? measure_.never() : measure_.plus(plus);
      }
      if (!chunk.with_coordinates) return;
      for (int64_t j = begin; j < end; ++j) {
        const S* source = columns.finite[chunk.first + j] ? columns.row(chunk.first + j) : nullptr;
        for (int64_t d = 0; d < depth_panels(depth); ++d) {
          T* target = chunk.coordinates.memory + (d * chunk.capacity + j) * width;
          const int64_t from = d * width, here = source ? std::min(width, depth - from) : 0;
          for (int64_t k = 0; k < here; ++k) target[k] = static_cast<T>(source[from + k]) * frame_.scale - frame_.shift[from + k];
          std::fill(target + here, target + width, T(0));
        }
      }
    });
  }

  template <class Visit>
  void visit_strips(const Side& rows, PairStrip<T> strip, const T* panels, const Side& columns, const Chunk& chunk, Span wanted,
                    const Visit& visit) const {
    const int64_t depth = rows.depth;
    const int64_t begin = std::max(wanted.first, chunk.first) - chunk.first, end = std::min(wanted.second, chunk.first + chunk.count) - chunk.first;
    strip.apart = chunk.capacity * tile_.cols;
    for (int64_t j = begin / tile_.cols * tile_.cols; j < end; j += kStrip) {
      strip.column = chunk.first + j;
      strip.columns = std::min(kStrip, end - j);
      strip.padded = padded(strip.columns);
      strip.panels = chunk.coordinates.memory + j * tile_.cols;
      tile_.values(panels, (strip.rows + tile_.rows - 1) / tile_.rows, chunk.panels.memory + j * depth, strip.padded / tile_.cols, depth,
                   chunk.plus.memory + j, chunk.times.memory + j, strip.value, kernel_.stride);
      if (measure_.measure == kDistance)
        for (int64_t r = 0; r < strip.rows; ++r)
          kernel_.roots(strip.value + r * kernel_.stride, strip.padded, chunk.plus.memory + j, strip.norm[r], measure_.scale);
      forget_skipped(rows, columns, strip);
      visit(strip);
    }
  }

  void forget_skipped(const Side& rows, const Side& columns, const PairStrip<T>& strip) const {
    const T nothing = -std::numeric_limits<T>::infinity();
    if (!rows.skip.empty())
      for (int64_t r = 0; r < strip.rows; ++r) {
        const int64_t at = rows.skip[strip.row + r] - strip.column;
        if (at >= 0 && at < strip.columns) strip.value[r * kernel_.stride + at] = nothing;
      }
    if (!columns.skip.empty())
      for (int64_t c = 0; c < strip.columns; ++c) {
        const int64_t at = columns.skip[strip.column + c] - strip.row;
        if (at >= 0 && at < strip.rows) strip.value[at * kernel_.stride + c] = nothing;
      }
  }

  PairMeasure<T> measure_;
  Frame<T> frame_;
  ParallelFor parallel_;
  int threads_;
  const StripKernel<T>& tile_;
  const SoftmaxStripKernel<T>& kernel_;
};

}  // namespace zsml::cpu
