// One query's relevant items in order, and the counts of all others in the gaps between them. See rank_relevant.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "strip.h"

namespace zsml::cpu {

// Views into memory that outlives a pass over the gallery; R relevant items. The counts start at 0.
template <class T>
struct GapCounts {
  T* value;          // [R + 1] ranking values, ascending once sorted; then infinity
  int64_t* row;      // [R]     gallery rows, ascending among equal values
  int32_t* nearer;   // [R + 1] others in the gap before each relevant item; running sums in the end
  int32_t* tied;     // [R + 1] others equal to it, kept at the first of equal items until the end
  int32_t* before;   // [R + 1] of those, with a row between the one before and its own; running sums in the end
  int32_t* start;    // [bins]  relevant items in lower bins
  int64_t relevant;  // R >= 1
  int32_t bins;
  T low, scale;  // what strip_bins takes
  bool ties;     // whether `tied` and `before` hold anything
  T nearest;     // ranking value of the nearest other

  // Several bins per relevant item: most of the others then find their gap without a comparison or with one.
  static int32_t bins_for(int64_t relevant) {
    int32_t bins = 64;
    while (bins < 4 * relevant && bins < 8192) bins *= 2;
    return bins;
  }

  // Sorts value and row, which come by ascending row, and lays out the bins. bin, spare_value, spare_row: scratch [R].
  void sort(const StripKernel<T>& kernel, int32_t* bin, T* spare_value, int64_t* spare_row) {
    const auto [least, most] = std::minmax_element(value, value + relevant);
    low = *least;
    scale = *most > *least ? static_cast<T>(bins) / (*most - *least) : T(0);
    if (!(scale <= std::numeric_limits<T>::max())) scale = std::numeric_limits<T>::max();
    kernel.bins(value, relevant, low, scale, bins - 1, bin);
    std::fill_n(start, bins, 0);
    for (int64_t i = 0; i < relevant; ++i) ++start[bin[i]];
    for (int32_t b = 0, sum = 0; b < bins; ++b) sum += std::exchange(start[b], sum);
    for (int64_t i = 0; i < relevant; ++i) {  // leaves every start at its bin's end, which is the next bin's start
      const int32_t to = start[bin[i]]++;
      spare_value[to] = value[i];
      spare_row[to] = row[i];
    }
    std::copy_backward(start, start + bins - 1, start + bins);
    start[0] = 0;
    for (int32_t b = 0; b < bins; ++b) sort_bin(spare_value, spare_row, start[b], b + 1 < bins ? start[b + 1] : static_cast<int32_t>(relevant));
    std::copy_n(spare_value, relevant, value);
    std::copy_n(spare_row, relevant, row);
    value[relevant] = std::numeric_limits<T>::infinity();
  }

  // Scratch of count(), for up to `room` others at a time.
  struct Kept {
    explicit Kept(int64_t room) : value(room + 16), bin(room + 16), place(room + 16) {}
    std::vector<T> value;
    std::vector<int32_t> bin, place;
  };

  // Others with their ranking values; rows[j] is the gallery row of other j. Those beyond the last relevant item, which are most
  // once a network is trained, are dropped first: they precede nothing.
  void count(const StripKernel<T>& kernel, const T* others, const int64_t* rows, int64_t number, Kept& kept) {
    number = kernel.keep(others, number, value[relevant - 1], low, scale, bins - 1, kept.value.data(), kept.bin.data(), kept.place.data(), nearest);
    count_kept(kept, number, rows);
  }

  // Running sums; result[c * stride + i]
  void finish(int32_t* near, int32_t* tie_before, int32_t* tie) {
    int32_t sum = 0;
    for (int64_t i = 0; i < relevant; ++i) near[i] = sum += nearer[i];
    std::fill_n(tie_before, relevant, 0);
    std::fill_n(tie, relevant, 0);
    if (!ties) return;
    for (int64_t i = 0; i < relevant; ++i) {
      const bool first = i == 0 || value[i] != value[i - 1];
      tie[i] = first ? tied[i] : tie[i - 1];
      tie_before[i] = before[i] + (first ? 0 : tie_before[i - 1]);
    }
  }

 private:
  // A loop of its own, so that everything it needs stays in registers.
  __attribute__((noinline)) void count_kept(const Kept& kept, int64_t number, const int64_t* rows) {
    const T *ordered = value, *others = kept.value.data();
    const int32_t *first = start, *bin = kept.bin.data();
    int32_t* counts = nearer;
    for (int64_t j = 0; j < number; ++j) {
      const T v = others[j];
      int64_t gap = first[bin[j]];  // relevant items in lower bins are nearer; those of the same bin are compared
      gap += ordered[gap] < v;
      gap += ordered[gap] < v;
      if (__builtin_expect(ordered[gap] <= v, 0)) gap = search(gap, v, rows, kept.place[j]);
      ++counts[gap];
    }
  }

  // The gap of an item that has more than two relevant ones of its bin before it, or is equal to one.
  __attribute__((noinline)) int64_t search(int64_t gap, T v, const int64_t* rows, int32_t place) {
    gap = std::lower_bound(value + gap, value + relevant, v) - value;
    return value[gap] == v ? count_tie(static_cast<int32_t>(gap), v, rows[place]) : gap;
  }

  // Counts another item equal to the relevant ones from `first` on; returns the end of these.
  int32_t count_tie(int32_t first, T v, int64_t other) {
    ties = true;
    const auto end = static_cast<int32_t>(std::upper_bound(value + first, value + relevant, v) - value);
    ++tied[first];
    const auto at = static_cast<int32_t>(std::upper_bound(row + first, row + end, other) - row);
    if (at < end) ++before[at];
    return end;
  }

  // Stable, so that rows ascend among equals. Bins hold a few items, unless one far item makes all others share a bin.
  static void sort_bin(T* values, int64_t* rows, int32_t begin, int32_t end) {
    if (end - begin > 32) return sort_crowded_bin(values, rows, begin, end);
    for (int32_t i = begin + 1; i < end; ++i) {
      const T v = values[i];
      const int64_t r = rows[i];
      int32_t to = i;
      for (; to > begin && values[to - 1] > v; --to) values[to] = values[to - 1], rows[to] = rows[to - 1];
      values[to] = v, rows[to] = r;
    }
  }

  static void sort_crowded_bin(T* values, int64_t* rows, int32_t begin, int32_t end) {
    std::vector<std::pair<T, int64_t>> pairs;
    for (int32_t i = begin; i < end; ++i) pairs.emplace_back(values[i], rows[i]);
    std::sort(pairs.begin(), pairs.end());
    for (int32_t i = begin; i < end; ++i) std::tie(values[i], rows[i]) = pairs[i - begin];
  }
};

}  // namespace zsml::cpu
