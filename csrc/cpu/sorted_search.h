// The search of hardest_pairs where the candidates are the anchors themselves. The product is symmetric: each tile is computed
// once and used for its rows and for its columns. In order of (modality, label) nearly every tile holds only negatives of one kind,
// so that its reduction is a bare minimum.
#pragma once

#include <atomic>
#include <memory>

#include "aligned.h"
#include "extremes.h"
#include "pack.h"

namespace zsml::cpu {

template <class S, class T>
class SortedSearch {
 public:
  using I = Integer<T>;

  SortedSearch(Rows<S> x, const int64_t* labels, const int64_t* modality, const std::vector<uint8_t>& finite, const Frame<T>& frame,
               const ExtremesKernel<T>& kernel, ParallelFor parallel, int threads)
      : x_(x),
        finite_(finite),
        frame_(frame),
        kernel_(kernel),
        parallel_(parallel),
        padded_(round_up(x.count, kernel.rows * kernel.cols)),
        row_panels_(round_up(x.count, kernel.rows) * x.depth),
        col_panels_(round_up(x.count, kernel.cols) * x.depth),
        norm_(padded_),
        label_(padded_),
        modality_(padded_),
        original_(padded_) {
    sort(labels, modality);
    // Blocks of row panels that fit the second-level cache, yet several for every thread: they shrink towards the diagonal's end.
    const int64_t panels = (x.count + kernel.rows - 1) / kernel.rows;
    const int64_t by_cache = (384 << 10) / (kernel.rows * x.depth * static_cast<int64_t>(sizeof(T)) + 1);
    block_ = std::clamp<int64_t>(std::min(by_cache, panels / (6 * threads)), 1, 64);
    blocks_ = (panels + block_ - 1) / block_;
    workers_ = x.count * x.count * x.depth < 1 << 21 ? 1 : std::min<int64_t>(threads, blocks_);
    workers_ = std::min(workers_, std::max<int64_t>(2, x.depth / 4));  // each has winners of its own: together no more than 2 B D values
  }

  // value, index [4, B] of winners, norm [B]: by original row. The value is |b|^2 - 2 a.b in the frame.
  void run(Winners<T> winners, T* norm) {
    pack_both();
    std::vector<Found> found;
    for (int64_t w = 0; w < workers_; ++w) found.emplace_back(padded_);
    std::atomic<int64_t> next{0};
    const auto work = [&](int64_t begin, int64_t end) {
      for (int64_t w = begin; w < end; ++w) search(next, found[w]);
    };
    if (workers_ == 1)
      work(0, 1);
    else
      parallel_(0, workers_, 1, work);
    collect(found, winners, norm);
  }

 private:
  // Who wins does not depend on the order in which candidates are seen, so each worker may take whatever block comes next.
  struct Found {
    explicit Found(int64_t stride) : value(std::make_unique<Aligned<T>>(kRoles * stride)), index(std::make_unique<Aligned<I>>(kRoles * stride)) {
      constexpr T infinity = std::numeric_limits<T>::infinity();
      for (int role = 0; role < kRoles; ++role) std::fill_n(value->memory + role * stride, stride, is_positive(role) ? -infinity : infinity);
      std::fill_n(index->memory, kRoles * stride, I(-1));
    }
    std::unique_ptr<Aligned<T>> value;
    std::unique_ptr<Aligned<I>> index;
  };

  static int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

  void sort(const int64_t* labels, const int64_t* modality) {
    struct Key {
      int64_t modality, label, row;
      bool operator<(const Key& other) const {
        return modality != other.modality ? modality < other.modality : label != other.label ? label < other.label : row < other.row;
      }
    };
    std::vector<Key> keys(x_.count);
    for (int64_t i = 0; i < x_.count; ++i) keys[i] = {modality[i], labels[i], i};
    std::sort(keys.begin(), keys.end());
    // Any int64 becomes a small id that fits a vector lane and keeps the order.
    std::vector<int64_t> distinct(x_.count);
    std::copy_n(labels, x_.count, distinct.data());
    std::sort(distinct.begin(), distinct.end());
    distinct.resize(std::unique(distinct.begin(), distinct.end()) - distinct.begin());
    I kind = 0;
    for (int64_t i = 0; i < padded_; ++i) {
      const Key& key = keys[std::min(i, x_.count - 1)];
      if (i > 0 && i < x_.count && key.modality != keys[i - 1].modality) ++kind;
      modality_.memory[i] = kind;
      label_.memory[i] = static_cast<I>(std::lower_bound(distinct.begin(), distinct.end(), key.label) - distinct.begin());
      original_.memory[i] = static_cast<I>(key.row);
    }
  }

  void pack_both() {
    struct Sorted {
      Rows<S> rows;
      const I* original;
      int64_t depth;
      const S* row(int64_t i) const { return rows.row(original[i]); }
    };
    const Sorted source{x_, original_.memory, x_.depth};
    std::vector<uint8_t> finite(x_.count);
    for (int64_t i = 0; i < x_.count; ++i) finite[i] = finite_[original_.memory[i]];
    const auto pack_some = [&](int width, T* panels, int64_t begin, int64_t end) {
      begin *= width, end = std::min(end * width, x_.count);
      pack<T>(source, begin, end - begin, width, frame_, finite, panels + begin * x_.depth, norm_.memory + begin);
    };
    for (auto [width, panels] : {std::pair{kernel_.rows, row_panels_.memory}, std::pair{kernel_.cols, col_panels_.memory}}) {
      const int64_t count = (x_.count + width - 1) / width;
      const auto body = [&, width = width, panels = panels](int64_t begin, int64_t end) { pack_some(width, panels, begin, end); };
      if (x_.count * x_.depth <= 1 << 17)
        body(0, count);
      else
        parallel_(0, count, 1, body);
    }
    std::fill(norm_.memory + x_.count, norm_.memory + padded_, std::numeric_limits<T>::quiet_NaN());
  }

  void search(std::atomic<int64_t>& next, const Found& found) const {
    const SortedRows<T> rows{row_panels_.memory, col_panels_.memory, norm_.memory, label_.memory, modality_.memory, original_.memory, x_.count};
    Aligned<T> scratch_value(kernel_.scratch(block_ * kernel_.rows));
    Aligned<I> scratch_index(kernel_.scratch(block_ * kernel_.rows));
    const int64_t panels = (x_.count + kernel_.rows - 1) / kernel_.rows;
    for (int64_t b = next++; b < blocks_; b = next++)
      kernel_.update_both(rows, b * block_, std::min((b + 1) * block_, panels), x_.depth, scratch_value.memory, scratch_index.memory,
                          {found.value->memory, found.index->memory, padded_});
  }

  void collect(const std::vector<Found>& found, Winners<T> winners, T* norm) const {
    for (int64_t s = 0; s < x_.count; ++s) norm[original_.memory[s]] = norm_.memory[s];
    for (int role = 0; role < kRoles; ++role)
      for (int64_t s = 0; s < x_.count; ++s) {
        T& value = winners.value[role * winners.stride + original_.memory[s]];
        int64_t& index = winners.index[role * winners.stride + original_.memory[s]];
        for (const Found& one : found) {
          const T other = one.value->memory[role * padded_ + s];
          const I j = one.index->memory[role * padded_ + s];
          if (j >= 0 && ((is_positive(role) ? other > value : other < value) || (other == value && j < index))) value = other, index = j;
        }
      }
  }

  Rows<S> x_;
  const std::vector<uint8_t>& finite_;
  const Frame<T>& frame_;
  const ExtremesKernel<T>& kernel_;
  ParallelFor parallel_;
  int64_t padded_;
  Aligned<T> row_panels_, col_panels_, norm_;
  Aligned<I> label_, modality_, original_;
  int64_t block_, blocks_, workers_;
};

}  // namespace zsml::cpu
