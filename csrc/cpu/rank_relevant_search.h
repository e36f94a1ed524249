// The work of rank_relevant without torch: relevant distances first, then every other item into the gap it falls into.
#pragma once

#include <tuple>
#include <utility>
#include <vector>

#include "../rank_relevant.h"
#include "aligned.h"
#include "gap_counts.h"
#include "pack.h"
#include "parallel.h"

namespace zsml::cpu {

// Gallery rows class by class.
struct ClassLists {
  const int64_t* order;   // [N] gallery rows
  const int64_t* starts;  // [C + 1]
};

// A gallery that looks as if it lay in class order.
template <class S>
struct Ordered {
  Rows<S> rows;
  const int64_t* order;
  int64_t depth;
  const S* row(int64_t i) const { return rows.row(order[i]); }
};

// The gallery in class order as panels of the register tile, with what turns a product into a ranking value (see strip.h).
template <class T>
struct PackedGallery {
  T *panels, *plus, *times;  // [padded, D], [padded], [padded]

  static int64_t padded(const StripKernel<T>& kernel, int64_t count) { return (count + kernel.cols - 1) / kernel.cols * kernel.cols; }
  static int64_t elements(const StripKernel<T>& kernel, int64_t count, int64_t depth) { return padded(kernel, count) * (depth + 2); }

  // memory: elements() values, aligned to 64 bytes.
  PackedGallery(T* memory, const StripKernel<T>& kernel, int64_t count, int64_t depth)
      : panels(memory), plus(memory + padded(kernel, count) * depth), times(plus + padded(kernel, count)) {}

  template <class S>
  void fill(Rows<S> gallery, const int64_t* order, const Frame<T>& frame, bool cosine, const StripKernel<T>& kernel, ParallelFor parallel) const {
    const Ordered<S> source{gallery, order, gallery.depth};
    const int64_t cols = kernel.cols;
    parallel(0, padded(kernel, gallery.count) / cols, 1 + 16384 / (cols * gallery.depth), [&](int64_t begin, int64_t end) {
      begin *= cols, end *= cols;
      const int64_t last = std::min(end, gallery.count);
      pack<T>(source, begin, last - begin, static_cast<int>(cols), frame, {}, panels + begin * gallery.depth, plus + begin);
      for (int64_t j = begin; j < last; ++j) {
        times[j] = -2;
        if (!cosine) continue;
        double square = 0;  // in double: a row much shorter than the longest keeps its length
        for (int64_t k = 0; k < gallery.depth; ++k) {
          const double value = static_cast<double>(static_cast<T>(source.row(j)[k]) * frame.scale);
          square += value * value;
        }
        times[j] = square > 0 ? static_cast<T>(-1 / std::sqrt(square)) : T(0);
        plus[j] = 0;
      }
      for (int64_t j = last; j < end; ++j) plus[j] = times[j] = 0;
    });
  }
};

template <class S, class T>
class RankRelevant {
 public:
  // query_class [Q], offset [Q + 1]: where each query's results begin, last the total. Only the queries in `which` are done.
  RankRelevant(std::vector<int64_t> which, Rows<S> queries, const int64_t* query_class, const int64_t* offset, PackedGallery<T> gallery, int64_t size,
               ClassLists lists, Frame<T> frame, bool cosine, ParallelFor parallel, int threads, Isa isa)
      : queries_(queries),
        gallery_(gallery),
        size_(size),
        query_class_(query_class),
        offset_(offset),
        lists_(lists),
        frame_(std::move(frame)),
        cosine_(cosine),
        parallel_(parallel),
        kernel_(strip_kernel<T>(isa)),
        query_order_(std::move(which)),
        state_(queries.count) {
    std::stable_sort(query_order_.begin(), query_order_.end(), [&](int64_t a, int64_t b) { return query_class_[a] < query_class_[b]; });
    // As many queries as keep their panels and a strip of values in the second-level cache, unless a thread would go without.
    const int64_t by_cache = std::clamp<int64_t>((128 << 10) / (queries.depth * static_cast<int64_t>(sizeof(T))), 1, 64);
    block_ = std::max<int64_t>(1, std::min(by_cache, (number() + threads - 1) / threads) / kernel_.rows) * kernel_.rows;
  }

  // result [kCounts, total]
  void run(int32_t* result) {
    const int64_t total = offset_[queries_.count];
    lay_out(total);
    const int64_t blocks = (number() + block_ - 1) / block_;
    parallel_(0, blocks, 1, [&](int64_t begin, int64_t end) { relevant_values(begin, end); });
    parallel_(0, number(), 16, [&](int64_t begin, int64_t end) { sort_relevant(begin, end); });
    parallel_(0, blocks, 1, [&](int64_t begin, int64_t end) { count_others(begin, end); });
    parallel_(0, number(), 64, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t i = query_order_[p];
        if (state_[i].relevant > 0)
          state_[i].finish(result + offset_[i], result + kTiedBefore * total + offset_[i], result + kTied * total + offset_[i]);
      }
    });
  }

  // Queries with an item of another class so near that its distance has lost most of its digits: |g|^2 - 2 <q, g> cancels against
  // |q|^2. Above kDoubtful, rounding moves a squared distance by less than about 1e-4 of itself.
  std::vector<int64_t> doubtful() const {
    std::vector<int64_t> found;
    const Ordered<S> source{queries_, query_order_.data(), queries_.depth};
    std::vector<T> norm(kernel_.rows), panel(kernel_.rows * queries_.depth);
    for (int64_t p = 0; p < number(); p += kernel_.rows) {
      const int64_t count = std::min<int64_t>(kernel_.rows, number() - p);
      pack<T>(source, p, count, kernel_.rows, frame_, {}, panel.data(), norm.data());
      for (int64_t r = 0; r < count; ++r) {
        const GapCounts<T>& state = state_[query_order_[p + r]];
        const T own = cosine_ ? std::sqrt(norm[r]) : norm[r];
        if (state.relevant > 0 && state.nearest + own < T(kDoubtful) * own) found.push_back(query_order_[p + r]);
      }
    }
    return found;
  }

 private:
  static constexpr double kDoubtful = 1.0 / 1024;
  static constexpr int64_t kStrip = 2048;  // gallery items whose values are held at a time, per query

  int64_t number() const { return static_cast<int64_t>(query_order_.size()); }
  int64_t begin_of(int64_t query) const { return lists_.starts[query_class_[query]]; }
  int64_t end_of(int64_t query) const { return lists_.starts[query_class_[query] + 1]; }

  void lay_out(int64_t total) {
    const int64_t queries = queries_.count;
    values_.resize(total + queries);
    rows_.resize(total);
    counts_.assign(3 * (total + queries), 0);
    int64_t bins = 0;
    for (int64_t i = 0; i < queries; ++i) bins += offset_[i] < offset_[i + 1] ? GapCounts<T>::bins_for(offset_[i + 1] - offset_[i]) : 0;
    starts_.resize(bins);
    int32_t* start = starts_.data();
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t relevant = offset_[i + 1] - offset_[i], at = offset_[i] + i;
      const int32_t own = relevant ? GapCounts<T>::bins_for(relevant) : 0;
      state_[i] = {values_.data() + at,
                   rows_.data() + offset_[i],
                   counts_.data() + at,
                   counts_.data() + total + queries + at,
                   counts_.data() + 2 * (total + queries) + at,
                   start,
                   relevant,
                   own,
                   T(0),
                   T(0),
                   false,
                   std::numeric_limits<T>::infinity()};
      start += own;
    }
  }

  // Queries of block b in class order, as panels.
  int64_t pack_queries(int64_t b, std::vector<T>& norm, T* panels) const {
    const Ordered<S> source{queries_, query_order_.data(), queries_.depth};
    const int64_t first = b * block_, count = std::min(block_, number() - first);
    norm.resize(block_);
    pack<T>(source, first, count, kernel_.rows, frame_, {}, panels, norm.data());
    return count;
  }

  // Ranking values of the block's queries to the panels that hold gallery places [begin, end); that of place j lies at j - result.
  int64_t values(const T* queries, int64_t count, int64_t begin, int64_t end, T* value, int64_t stride) const {
    const int64_t aligned = begin / kernel_.cols * kernel_.cols;
    kernel_.values(queries, (count + kernel_.rows - 1) / kernel_.rows, gallery_.panels + aligned * queries_.depth,
                   (end - aligned + kernel_.cols - 1) / kernel_.cols, queries_.depth, gallery_.plus + aligned, gallery_.times + aligned, value,
                   stride);
    return aligned;
  }

  void relevant_values(int64_t begin, int64_t end) {
    const int64_t stride = kStrip + kernel_.cols;
    Aligned<T> panels(block_ * queries_.depth), value(block_ * stride);
    std::vector<T> norm;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t count = pack_queries(b, norm, panels.memory);
      for (int64_t p = 0; p < count;) {  // queries of one class together
        const int64_t query = query_order_[b * block_ + p];
        int64_t next = p + 1;
        while (next < count && query_class_[query_order_[b * block_ + next]] == query_class_[query]) ++next;
        const int64_t from_panel = p / kernel_.rows * kernel_.rows;
        for (int64_t j = begin_of(query); j < end_of(query); j += kStrip) {
          const int64_t stop = std::min(end_of(query), j + kStrip);
          const int64_t aligned = values(panels.memory + from_panel * queries_.depth, next - from_panel, j, stop, value.memory, stride);
          for (int64_t i = p; i < next; ++i)
            std::copy_n(value.memory + (i - from_panel) * stride + (j - aligned), stop - j,
                        state_[query_order_[b * block_ + i]].value + (j - begin_of(query)));
        }
        p = next;
      }
    }
  }

  void sort_relevant(int64_t begin, int64_t end) {
    std::vector<int32_t> bin;
    std::vector<T> value;
    std::vector<int64_t> row;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t i = query_order_[p];
      GapCounts<T>& state = state_[i];
      if (state.relevant == 0) continue;
      bin.resize(state.relevant), value.resize(state.relevant), row.resize(state.relevant);
      std::copy_n(lists_.order + begin_of(i), state.relevant, state.row);
      state.sort(kernel_, bin.data(), value.data(), row.data());
    }
  }

  void count_others(int64_t begin, int64_t end) {
    Aligned<T> panels(block_ * queries_.depth), value(block_ * kStrip);
    typename GapCounts<T>::Kept kept(kStrip);
    std::vector<T> norm;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t count = pack_queries(b, norm, panels.memory);
      for (int64_t j = 0; j < size_; j += kStrip) {
        const int64_t stop = std::min(size_, j + kStrip);
        values(panels.memory, count, j, stop, value.memory, kStrip);
        for (int64_t p = 0; p < count; ++p) {
          const int64_t query = query_order_[b * block_ + p];
          GapCounts<T>& state = state_[query];
          if (state.relevant == 0) continue;
          const auto count_between = [&](int64_t from, int64_t to) {
            if (from < to) state.count(kernel_, value.memory + p * kStrip + (from - j), lists_.order + from, to - from, kept);
          };
          // Everything but the query's own class.
          count_between(j, std::clamp(begin_of(query), j, stop));
          count_between(std::clamp(end_of(query), j, stop), stop);
        }
      }
    }
  }

  Rows<S> queries_;
  PackedGallery<T> gallery_;
  int64_t size_;
  const int64_t *query_class_, *offset_;
  ClassLists lists_;
  Frame<T> frame_;
  bool cosine_;
  ParallelFor parallel_;
  const StripKernel<T>& kernel_;
  std::vector<int64_t> query_order_;
  std::vector<GapCounts<T>> state_;
  int64_t block_;
  std::vector<T> values_;
  std::vector<int64_t> rows_;
  std::vector<int32_t> counts_, starts_;
};

}  // namespace zsml::cpu
