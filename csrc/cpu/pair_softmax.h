// supcon and margin_softmax without torch: log-sum-exp over streamed pairs, and what flows back through recomputed ones.
#pragma once

#include "pair_stream.h"

namespace zsml::cpu {

template <class S, class T>
class PairSoftmax {
 public:
  using Side = PairSide<S, T>;

  // `anchors` and `candidates` outlive this object; without refs they are one and the same side.
  PairSoftmax(const Side& anchors, const Side& candidates, const PairStream<S, T>& stream, int pairs, bool per_pair)
      : anchors_(anchors), candidates_(candidates), stream_(stream), pairs_(pairs), per_pair_(per_pair) {}

  struct Sums {
    LogSum<double> all{-INFINITY, 0};  // of the negatives where per_pair, else of all candidates
    double positive = 0;               // sum of the positives' values
    int64_t positives = 0;
    double plus = 0;  // to be added to each value
  };

  // By place of the anchor.
  std::vector<Sums> sums() const {
    std::vector<Sums> result(anchors_.count());
    const PairRule rule{pairs_, per_pair_, true, false, false};
    const auto everything = [&](int64_t, int64_t) { return Span(0, candidates_.count()); };
    stream_.run(anchors_, 0, anchors_.count(), candidates_, false, everything, [&](const PairStrip<T>& strip) {
      for_rows(strip, anchors_, candidates_, [&](int64_t place, T* value, const PairColumns<T>& columns, const PairRow<T>& row) {
        const StripSum<T> part = stream_.kernel().sum(value, strip.padded, columns, row, rule);
        Sums& sums = result[place];
        sums.all = merge(sums.all, LogSum<double>{part.top, part.sum});
        sums.positive += part.positive;
        sums.positives += part.positives;
        sums.plus = row.plus;
      });
    });
    return result;
  }

  // The terms of every anchor's positives, given its lse. Both sides are in the order of their labels, so that few columns need a look.
  std::vector<StripTerms> terms(const std::vector<T>& lse) const {
    std::vector<StripTerms> result(anchors_.count(), StripTerms{0, 0, 0});
    const PairRule rule{pairs_, true, true, false, false};
    const auto own_classes = [&](int64_t place, int64_t count) {
      const auto begin = candidates_.label.begin(), end = begin + candidates_.count();
      return Span(std::lower_bound(begin, end, anchors_.label[place]) - begin,
                  std::upper_bound(begin, end, anchors_.label[place + count - 1]) - begin);
    };
    stream_.run(anchors_, 0, anchors_.count(), candidates_, false, own_classes, [&](const PairStrip<T>& strip) {
      for_rows(strip, anchors_, candidates_, [&](int64_t place, T* value, const PairColumns<T>& columns, PairRow<T> row) {
        row.anchor.lse = lse[place];
        const StripTerms part = stream_.kernel().terms(value, strip.padded, columns, row, rule);
        StripTerms& sum = result[place];
        sum.loss += part.loss, sum.pull += part.pull, sum.positives += part.positives;
      });
    });
    return result;
  }

  // What flows into the samples of `rows` from their pairs with `columns`, these being the two sides in either order (or one and the
  // same). Calls write(place, sum_j w_j column_j as [D], sum_j w_j), columns in the stream's frame, zeros for a row that is not finite.
  template <class Write>
  void gradient(const Side& rows, const Side& columns, const Write& write) const {
    const int64_t depth = rows.depth, depth_panels = stream_.depth_panels(depth), panel_rows = stream_.panel_rows();
    const int64_t tile = panel_rows * stream_.panel_columns();
    const PairRule rule{pairs_, per_pair_, !rows.lse.empty(), !columns.lse.empty(), stream_.measure().measure == kDistance};
    const auto everything = [&](int64_t, int64_t) { return Span(0, columns.count()); };
    // Sums are held for some rows at a time: all columns are packed once more for each part.
    const int64_t most = std::max<int64_t>(64, (32 << 20) / (depth_panels * tile * static_cast<int64_t>(sizeof(T)))) * panel_rows;
    const int64_t room = std::min(most, (rows.count() + panel_rows - 1) / panel_rows * panel_rows);
    Aligned<T> sum(room * depth_panels * stream_.panel_columns()), total(room);
    for (int64_t first = 0; first < rows.count(); first += room) {
      const int64_t count = std::min(room, rows.count() - first), panels = (count + panel_rows - 1) / panel_rows;
      stream_.parallel()(0, panels, 16, [&](int64_t begin, int64_t end) {
        std::fill(sum.memory + begin * depth_panels * tile, sum.memory + end * depth_panels * tile, T(0));
        std::fill(total.memory + begin * panel_rows, total.memory + end * panel_rows, T(0));
      });
      stream_.run(rows, first, first + count, columns, true, everything, [&](const PairStrip<T>& strip) {
        for_rows(strip, rows, columns, [&](int64_t place, T* value, const PairColumns<T>& cols, const PairRow<T>& row) {
          if (rows.finite[place])
            total.memory[place - first] += stream_.kernel().weights(value, strip.padded, cols, row, rule);
          else
            std::fill_n(value, strip.padded, T(0));
        });
        const int64_t at = (strip.row - first) / panel_rows, here = (strip.rows + panel_rows - 1) / panel_rows;
        stream_.kernel().accumulate(strip.value, here, strip.columns, strip.panels, strip.apart, depth_panels, sum.memory + at * depth_panels * tile);
      });
      stream_.parallel()(0, count, 1 + 16384 / depth, [&](int64_t begin, int64_t end) {
        std::vector<T> own(depth);
        for (int64_t p = begin; p < end; ++p) {
          const T* from = sum.memory + p / panel_rows * depth_panels * tile + p % panel_rows * stream_.panel_columns();
          for (int64_t k = 0; k < depth; ++k) own[k] = from[k / stream_.panel_columns() * tile + k % stream_.panel_columns()];
          write(first + p, own.data(), total.memory[p]);
        }
      });
    }
  }

 private:
  using Span = typename PairStream<S, T>::Span;

  template <class Body>
  void for_rows(const PairStrip<T>& strip, const Side& rows, const Side& columns, const Body& body) const {
    const auto from = [&](const auto& values) { return values.empty() ? nullptr : values.data() + strip.column; };
    const PairColumns<T> cols{from(columns.label), from(columns.modality), from(columns.lse), from(columns.all), from(columns.positive)};
    for (int64_t r = 0; r < strip.rows; ++r) {
      const int64_t place = strip.row + r;
      PairRow<T> row{rows.label[place], rows.modality.empty() ? 0 : rows.modality[place], stream_.measure().row_plus(strip.norm[r]), {0, 0, 0}};
      if (!rows.lse.empty()) row.anchor = {rows.lse[place], rows.all[place], rows.positive[place]};
      body(place, strip.value + r * stream_.kernel().stride, cols, row);
    }
  }

  const Side &anchors_, &candidates_;
  const PairStream<S, T>& stream_;
  int pairs_;
  bool per_pair_;
};

}  // namespace zsml::cpu
