// The pairs of one side with itself, each computed once for both its samples: half the products of PairSoftmax, for four copies of
// the side at most. One exponential serves both samples, taken below a bound of all values instead of each anchor's own maximum; that
// needs a bound which is not too far above the values, as rows of length 1 at the usual temperatures have it.
#pragma once

#include "pair_softmax.h"

namespace zsml::cpu {

template <class S, class T>
class SymmetricSoftmax {
 public:
  using Side = PairSide<S, T>;

  // Small sides are done before they are sorted into groups; for large ones memory counts more.
  static bool pays(const Side& side) { return side.count() >= 1024 && side.count() * side.depth * static_cast<int64_t>(sizeof(T)) <= 64 << 20; }

  // The side is in the order of its labels. `gradient`: its pulls are set.
  SymmetricSoftmax(const Side& side, const PairSetting<S, T>& setting, int pairs, bool per_pair, bool gradient)
      : side_(side),
        setting_(setting),
        rule_{pairs, per_pair, true, gradient, false},
        groups_(2 * ((side.count() + 511) / 512)),
        size_(setting.padded((side.count() + groups_ - 1) / groups_)),
        group_panels_(setting.panels_of_rows(size_)),
        rows_(groups_ * group_panels_ * setting.tile.rows * side.depth),
        norm_(groups_ * group_panels_ * setting.tile.rows),
        columns_(groups_ * size_, side.depth, gradient ? setting.padded(side.depth) : 0) {
    setting.parallel(0, groups_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g)
        pack(side, first(g), count(g), setting.tile.rows, setting.frame, side.finite, rows_.memory + g * group_rows() * side.depth, norm(g));
    });
    T longest = 0;
    for (int64_t p = 0; p < side.count(); ++p)
      if (side.finite[p]) longest = std::max(longest, norm(p / size_)[p % size_]);
    top_ = longest * setting.measure.scale;
    if (bounded()) setting.fill(columns_, side, 0, side.count());
  }

  // e^(value - top) and e^(top - lse) stay well within T.
  bool bounded() const { return 2 * top_ <= T(sizeof(T) == 4 ? 64 : 600); }

  // By place, as PairSoftmax::sums().
  std::vector<AnchorSums> sums() const {
    std::vector<AnchorSums> result(side_.count());
    std::vector<double> below(side_.count(), 0.0);  // sums of e^(value - top)
    in_rounds([&](int64_t g, int64_t h) {
      std::vector<T> column_sum(size_, T(0));
      const bool negatives = g != h && apart(g, h);
      for_strips(g, h, [&](const PairStrip<T>& strip) {
        setting_.for_rows(strip, side_, side_, [&](int64_t place, T* value, const PairColumns<T>& columns, const PairRow<T>& row) {
          if (!negatives)
            result[place].add(setting_.kernel.sum(value, strip.padded, columns, row, rule_));
          else if (side_.finite[place])
            below[place] += setting_.kernel.sum_both(value, strip.padded, columns, row, rule_, top_, column_sum.data());
        });
      });
      for (int64_t c = 0; negatives && c < count(h); ++c) below[first(h) + c] += column_sum[c];
      if (negatives || g == h) return;
      for_strips(h, g, [&](const PairStrip<T>& strip) {
        setting_.for_rows(strip, side_, side_, [&](int64_t place, T* value, const PairColumns<T>& columns, const PairRow<T>& row) {
          result[place].add(setting_.kernel.sum(value, strip.padded, columns, row, rule_));
        });
      });
    });
    for (int64_t p = 0; p < side_.count(); ++p) result[p].all = merge(result[p].all, LogSum<double>{static_cast<double>(top_), below[p]});
    return result;
  }

  // As PairSoftmax::gradient() of the side with itself, without the sum of the weights.
  template <class Write>
  void gradient(const Write& write) const {
    PairFlow<S, T> flow(setting_, side_.depth, groups_ * group_panels_);
    flow.clear();
    Side both = side_;  // anchors' factors of e^(value - top) instead of e^(value - lse)
    for (int64_t p = 0; p < side_.count(); ++p) both.all[p] = side_.all[p] == T(0) ? T(0) : side_.all[p] * std::exp(top_ - side_.lse[p]);
    const int64_t depth_panels = setting_.depth_panels(side_.depth), panel_rows = setting_.tile.rows;
    in_rounds([&](int64_t g, int64_t h) {
      const bool negatives = g != h && apart(g, h);
      const Side& side = negatives ? both : side_;
      for_strips(g, h, [&](const PairStrip<T>& strip) {
        setting_.for_rows(strip, side, side, [&](int64_t place, T* value, const PairColumns<T>& columns, const PairRow<T>& row) {
          if (!side_.finite[place])
            std::fill_n(value, strip.padded, T(0));
          else if (negatives)
            setting_.kernel.weights_both(value, strip.padded, columns, row, rule_, top_);
          else
            setting_.kernel.weights(value, strip.padded, columns, row, rule_);
        });
        const int64_t at = g * group_panels_ + (strip.row - first(g)) / panel_rows;
        setting_.kernel.accumulate(strip.value, setting_.panels_of_rows(strip.rows), strip.columns, strip.coordinates, strip.apart, depth_panels,
                                   flow.sum.memory + at * flow.panel());
        if (g != h)
          setting_.kernel.accumulate_transposed(strip.value, setting_.panels_of_rows(strip.columns), strip.rows,
                                                columns_.coordinates.memory + strip.row * setting_.tile.cols, strip.apart, depth_panels,
                                                flow.sum.memory + h * group_panels_ * flow.panel());
      });
    });
    setting_.parallel(0, side_.count(), 1 + 16384 / side_.depth, [&](int64_t begin, int64_t end) {
      std::vector<T> own(side_.depth);
      for (int64_t p = begin; p < end; ++p) {
        flow.copy(p / size_ * group_rows() + p % size_, own.data());
        write(p, own.data(), T(0));
      }
    });
  }

 private:
  static constexpr int64_t kStride = SoftmaxStripKernel<T>::stride;

  int64_t group_rows() const { return group_panels_ * setting_.tile.rows; }
  int64_t first(int64_t g) const { return std::min(g * size_, side_.count()); }
  int64_t count(int64_t g) const { return first(g + 1) - first(g); }
  T* norm(int64_t g) const { return norm_.memory + g * group_rows(); }
  // No sample of one group has the label of one of the other.
  bool apart(int64_t g, int64_t h) const { return side_.label[first(std::min(g, h) + 1) - 1] < side_.label[first(std::max(g, h))]; }

  // Group g against all columns of group h, as many rows at a time as keep what belongs to them in the second-level cache.
  template <class Visit>
  void for_strips(int64_t g, int64_t h, const Visit& visit) const {
    const int64_t by_cache = std::max<int64_t>(1, (256 << 10) / (side_.depth * setting_.tile.rows * static_cast<int64_t>(sizeof(T))));
    const int64_t parts = (group_panels_ + by_cache - 1) / by_cache;
    const int64_t block = (group_panels_ + parts - 1) / parts * setting_.tile.rows;
    Aligned<T> value(block * kStride);
    for (int64_t r = 0; r < count(g); r += block) {
      PairStrip<T> strip{first(g) + r, std::min(block, count(g) - r), value.memory, norm(g) + r};
      setting_.values(side_, rows_.memory + (g * group_rows() + r) * side_.depth, side_, columns_, first(h), count(h), strip);
      visit(strip);
    }
  }

  // Calls body(g, h) for every two groups, and every group with itself. What runs at the same time never shares a group, and every group
  // meets the others in a fixed order (a round-robin tournament), so that both may be written to and results do not depend on threads.
  template <class Body>
  void in_rounds(const Body& body) const {
    const auto meet = [&](int64_t g, int64_t h) {
      if (count(g) > 0 && count(h) > 0) body(g, h);
    };
    setting_.parallel(0, groups_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) meet(g, g);
    });
    const int64_t circle = groups_ - 1;
    for (int64_t round = 0; round < circle; ++round)
      setting_.parallel(0, groups_ / 2, 1, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) meet(k == 0 ? circle : (round + k) % circle, (round + circle - k) % circle);
      });
  }

  const Side& side_;
  const PairSetting<S, T>& setting_;
  PairRule rule_;
  int64_t groups_, size_, group_panels_;
  Aligned<T> rows_, norm_;  // [groups, group_rows, D], [groups, group_rows]
  PackedColumns<T> columns_;
  T top_;
};

}  // namespace zsml::cpu
