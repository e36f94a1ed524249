// Streams all pairs of two sides past a visitor: blocks of rows against strips of columns, whose values lie in the cache.
#pragma once

#include "pair_side.h"

namespace zsml::cpu {

using Span = std::pair<int64_t, int64_t>;  // places [first, second)

template <class S, class T>
class PairStream {
 public:
  using Side = PairSide<S, T>;

  explicit PairStream(const PairSetting<S, T>& setting) : setting_(setting) {}

  // Rows [first, last) of `rows` against all columns. span(row, count) says which columns a block of rows wants. A block's strips are
  // visited by one thread in ascending order. Where `coordinates` is set, the columns come with them.
  template <class Want, class Visit>
  void run(const Side& rows, int64_t first, int64_t last, const Side& columns, bool coordinates, const Want& span, const Visit& visit) const {
    // A chunk of columns is packed at a time, shared by the threads, and stays in the third-level cache.
    const int64_t depth = rows.depth, strips = std::clamp<int64_t>((4 << 20) / (kStrip * depth * static_cast<int64_t>(sizeof(T))), 1, 16);
    PackedColumns<T> chunk(std::min(strips * kStrip, setting_.padded(columns.count())), depth, coordinates ? setting_.padded(depth) : 0);
    const int64_t block = block_rows(last - first, depth, coordinates);
    for (int64_t start = 0; start < columns.count(); start += chunk.capacity) {
      setting_.fill(chunk, columns, start, std::min(chunk.capacity, columns.count() - start));
      setting_.parallel(0, (last - first + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
        Aligned<T> panels(block * depth), norm(block), value(block * kStride);
        for (int64_t b = begin; b < end; ++b) {
          const int64_t row = first + b * block, count = std::min(block, last - row);
          const auto [from, to] = span(row, count);
          const int64_t j = std::max(from, start) - start, stop = std::min(to, start + chunk.count) - start;
          if (j >= stop) continue;
          pack(rows, row, count, setting_.tile.rows, setting_.frame, rows.finite, panels.memory, norm.memory);
          PairStrip<T> strip{row, count, value.memory, norm.memory};
          // Strips end where they would if all columns were wanted, and begin with one of the groups whose terms are added together:
          // what a row adds up does not depend on the rows that share its block, and so on the number of threads.
          const int64_t group = kTermVectors * setting_.tile.cols / 2;
          for (int64_t at = j / group * group, next; at < stop; at = next) {
            next = std::min(stop, (at / kStrip + 1) * kStrip);
            setting_.values(rows, panels.memory, columns, chunk, at, next - at, strip);
            visit(strip);
          }
        }
      });
    }
  }

 private:
  static constexpr int64_t kStrip = SoftmaxStripKernel<T>::strip, kStride = SoftmaxStripKernel<T>::stride;

  // As many rows as keep their panels, values and sums in the second-level cache, unless a thread would go without.
  int64_t block_rows(int64_t rows, int64_t depth, bool sums) const {
    const int64_t bytes = static_cast<int64_t>(sizeof(T)) * (depth * (sums ? 2 : 1) + kStride);
    const int64_t by_cache = std::clamp<int64_t>((480 << 10) / bytes, 1, 128);
    const int64_t by_threads = (rows + setting_.threads - 1) / setting_.threads;
    return setting_.panels_of_rows(std::min(by_cache, by_threads)) * setting_.tile.rows;
  }

  const PairSetting<S, T>& setting_;
};

}  // namespace zsml::cpu
