// supcon and margin_softmax without torch: log-sum-exp over streamed pairs, and what flows back through recomputed ones.
#pragma once

#include "pair_stream.h"

namespace zsml::cpu {

// What one anchor has seen of its candidates.
struct AnchorSums {
  LogSum<double> all = empty_log_sum<double>();  // of the negatives where per_pair, else of all candidates
  double positive = 0;                           // sum of the positives' values
  int64_t positives = 0;
  double plus = 0;  // to be added to each value

  template <class T>
  void add(const StripSum<T>& part) {
    all = merge(all, LogSum<double>{part.top, part.sum});
    positive += part.positive;
    positives += part.positives;
  }
};

// Sums of weighted coordinates for some rows, as accumulate() writes them: [row panel][depth panel][rows][cols].
template <class S, class T>
struct PairFlow {
  const PairSetting<S, T>& setting;
  int64_t depth, panels;
  Aligned<T> sum, total;  // and the sum of each row's weights

  PairFlow(const PairSetting<S, T>& setting_, int64_t depth_, int64_t panels_)
      : setting(setting_), depth(depth_), panels(panels_), sum(panels * panel()), total(panels * setting.tile.rows) {}

  int64_t panel() const { return setting.depth_panels(depth) * setting.tile_size(); }

  void clear() {
    setting.parallel(0, panels, 16, [&](int64_t begin, int64_t end) {
      std::fill(sum.memory + begin * panel(), sum.memory + end * panel(), T(0));
      std::fill(total.memory + begin * setting.tile.rows, total.memory + end * setting.tile.rows, T(0));
    });
  }

  // Row r's sum into out [D].
  void copy(int64_t r, T* out) const {
    const int64_t rows = setting.tile.rows, cols = setting.tile.cols;
    const T* from = sum.memory + r / rows * panel() + r % rows * cols;
    for (int64_t k = 0; k < depth; k += cols, from += setting.tile_size()) std::copy_n(from, std::min(cols, depth - k), out + k);
  }
};

template <class S, class T>
class PairSoftmax {
 public:
  using Side = PairSide<S, T>;

  // `anchors` and `candidates` outlive this object; without refs they are one and the same side.
  PairSoftmax(const Side& anchors, const Side& candidates, const PairSetting<S, T>& setting, int pairs, bool per_pair)
      : anchors_(anchors), candidates_(candidates), setting_(setting), stream_(setting), pairs_(pairs), per_pair_(per_pair) {}

  // By place of the anchor.
  std::vector<AnchorSums> sums() const {
    std::vector<AnchorSums> result(anchors_.count());
    const PairRule rule{pairs_, per_pair_, true, false, false};
    const auto everything = [&](int64_t, int64_t) { return Span(0, candidates_.count()); };
    stream_.run(anchors_, 0, anchors_.count(), candidates_, false, everything, [&](const PairStrip<T>& strip) {
      setting_.for_rows(strip, anchors_, candidates_, [&](int64_t place, T* value, const PairColumns<T>& columns, const PairRow<T>& row) {
        result[place].add(setting_.kernel.sum(value, strip.padded, columns, row, rule));
        result[place].plus = row.plus;
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
      setting_.for_rows(strip, anchors_, candidates_, [&](int64_t place, T* value, const PairColumns<T>& columns, PairRow<T> row) {
        row.anchor.lse = lse[place];
        const StripTerms part = setting_.kernel.terms(value, strip.padded, columns, row, rule);
        StripTerms& sum = result[place];
        sum.loss += part.loss, sum.pull += part.pull, sum.positives += part.positives;
      });
    });
    return result;
  }

  // What flows into the samples of `rows` from their pairs with `columns`, these being the two sides in either order (or one and the
  // same). Calls write(place, sum_j w_j column_j as [D], sum_j w_j), columns in the setting's frame, zeros for a row that is not finite.
  template <class Write>
  void gradient(const Side& rows, const Side& columns, const Write& write) const {
    const PairRule rule{pairs_, per_pair_, !rows.lse.empty(), !columns.lse.empty(), setting_.measure.measure == kDistance};
    const auto everything = [&](int64_t, int64_t) { return Span(0, columns.count()); };
    // Sums are held for some rows at a time: all columns are packed once more for each part.
    const int64_t panel_bytes = setting_.padded(rows.depth) * setting_.tile.rows * static_cast<int64_t>(sizeof(T));
    PairFlow<S, T> flow(setting_, rows.depth, std::min(std::max<int64_t>(64, (32 << 20) / panel_bytes), setting_.panels_of_rows(rows.count())));
    for (int64_t first = 0; first < rows.count(); first += flow.panels * setting_.tile.rows) {
      const int64_t last = std::min(rows.count(), first + flow.panels * setting_.tile.rows);
      flow.clear();
      stream_.run(rows, first, last, columns, true, everything, [&](const PairStrip<T>& strip) {
        setting_.for_rows(strip, rows, columns, [&](int64_t place, T* value, const PairColumns<T>& cols, const PairRow<T>& row) {
          if (rows.finite[place])
            flow.total.memory[place - first] += setting_.kernel.weights(value, strip.padded, cols, row, rule);
          else
            std::fill_n(value, strip.padded, T(0));
        });
        setting_.kernel.accumulate(strip.value, setting_.panels_of_rows(strip.rows), strip.columns, strip.coordinates, strip.apart,
                                   setting_.depth_panels(rows.depth), flow.sum.memory + (strip.row - first) / setting_.tile.rows * flow.panel());
      });
      setting_.parallel(0, last - first, 1 + 16384 / rows.depth, [&](int64_t begin, int64_t end) {
        std::vector<T> own(rows.depth);
        for (int64_t r = begin; r < end; ++r) {
          flow.copy(r, own.data());
          write(first + r, own.data(), flow.total.memory[r]);
        }
      });
    }
  }

 private:
  const Side &anchors_, &candidates_;
  const PairSetting<S, T>& setting_;
  PairStream<S, T> stream_;
  int pairs_;
  bool per_pair_;
};

}  // namespace zsml::cpu
