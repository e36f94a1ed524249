// The forward pass of hardest_pairs without torch: frame, packed search, verification of doubtful winners, exact distances.
#pragma once

#include <unordered_map>

#include "aligned.h"
#include "extremes.h"
#include "pack.h"
#include "sorted_search.h"

namespace zsml::cpu {

template <class S, class T>
class HardestPairsSearch {
 public:
  // x [B, D] and candidates [M, D] with labels and modality [B], [M]; exclude [B] or null.
  HardestPairsSearch(Rows<S> x, const int64_t* labels, const int64_t* modality, Rows<S> candidates, const int64_t* candidate_labels,
                     const int64_t* candidate_modality, const int64_t* exclude, ParallelFor parallel, int threads, Isa isa)
      : x_(x),
        candidates_(candidates),
        labels_(labels),
        modality_(modality),
        candidate_labels_(candidate_labels),
        candidate_modality_(candidate_modality),
        exclude_(exclude, exclude + (exclude ? x.count : 0)),
        parallel_(parallel),
        threads_(threads),
        isa_(isa),
        kernel_(extremes_kernel<T>(isa)),
        self_(false) {
    if (!exclude) exclude_.assign(x.count, -1);
  }

  // The candidates are x itself, and no row is its own partner.
  HardestPairsSearch(Rows<S> x, const int64_t* labels, const int64_t* modality, ParallelFor parallel, int threads, Isa isa)
      : HardestPairsSearch(x, labels, modality, x, labels, modality, nullptr, parallel, threads, isa) {
    self_ = true;
    for (int64_t i = 0; i < x.count; ++i) exclude_[i] = i;
  }

  // distance [4, B], index [4, B]
  void run(T* distance, int64_t* index) {
    T largest = largest_coordinate<T>(candidates_, candidate_finite_, parallel_);
    if (self_) {
      finite_ = candidate_finite_;
    } else {
      largest = std::max(largest, largest_coordinate<T>(x_, finite_, parallel_));
    }
    frame_ = choose_frame<T>(candidates_, candidate_finite_, largest, parallel_);
    for (int64_t i = 0; i < x_.count * kRoles; ++i) {
      distance[i] = worst(static_cast<int>(i / x_.count));
      index[i] = -1;
    }
    own_norm_.resize(x_.count);
    if (self_)
      SortedSearch<S, T>(x_, labels_, modality_, finite_, frame_, kernel_, parallel_, threads_).run({distance, index, x_.count}, own_norm_.data());
    else
      search({distance, index, x_.count});
    if (self_) search_modalities_apart(distance, index);
    parallel_(0, x_.count, 1 + 16384 / x_.depth, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) finish(i, distance, index);
    });
  }

 private:
  using I = Integer<T>;

  // Scaled squared lengths below this may have lost digits to underflow.
  static constexpr T kVanishing = std::numeric_limits<T>::min() / (std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon());

  bool is_doubtful(T value, int64_t i) const { return value + own_norm_[i] < T(kTrustedFraction) * own_norm_[i] + kVanishing; }

  // Where each modality is a cluster of its own, the frame of all of them is a poor one within each, and measuring pair by pair
  // what it leaves in doubt would take many times the search: then every modality is searched again, in its own frame.
  void search_modalities_apart(T* distance, int64_t* index) {
    int64_t doubtful = 0;
    for (int64_t at = kWithinNeg * x_.count, i = 0; i < x_.count; ++i) doubtful += index[at + i] >= 0 && is_doubtful(distance[at + i], i);
    if (doubtful <= std::max<int64_t>(64, x_.count / 16)) return;
    std::unordered_map<int64_t, std::vector<int64_t>> rows;
    for (int64_t i = 0; i < x_.count; ++i) rows[modality_[i]].push_back(i);
    if (rows.size() == 1) return;
    for (const auto& [modality, own] : rows) {
      const int64_t count = static_cast<int64_t>(own.size());
      std::vector<S> some(count * x_.depth);
      std::vector<int64_t> labels(count), one(count, 0), partner(kRoles * count);
      std::vector<T> apart(kRoles * count);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(x_.row(own[r]), x_.depth, some.data() + r * x_.depth);
        labels[r] = labels_[own[r]];
      }
      HardestPairsSearch({some.data(), count, x_.depth}, labels.data(), one.data(), parallel_, threads_, isa_).run(apart.data(), partner.data());
      for (int role : {kWithinPos, kWithinNeg})
        for (int64_t r = 0; r < count; ++r) {
          const int64_t j = partner[role * count + r];
          distance[role * x_.count + own[r]] = apart[role * count + r];
          index[role * x_.count + own[r]] = j < 0 ? -1 : own[j];
        }
    }
    within_is_exact_ = true;
  }

  static T worst(int role) { return is_positive(role) ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity(); }

  // Any int64 becomes a small id that fits a vector lane; ids that no anchor has become -1.
  void dense_ids(const int64_t* own, const int64_t* other, std::vector<I>& own_ids, std::vector<I>& other_ids) const {
    std::unordered_map<int64_t, I> known;
    own_ids.resize(x_.count);
    other_ids.resize(candidates_.count);
    for (int64_t i = 0; i < x_.count; ++i) own_ids[i] = known.emplace(own[i], static_cast<I>(known.size())).first->second;
    for (int64_t j = 0; j < candidates_.count; ++j) {
      const auto found = known.find(other[j]);
      other_ids[j] = found == known.end() ? I(-1) : found->second;
    }
  }

  // All candidates, chunk by chunk (a chunk of panels is shared by the threads and stays in the cache), against all anchors.
  void search(Winners<T> winners) {
    dense_ids(labels_, candidate_labels_, label_id_, candidate_label_id_);
    dense_ids(modality_, candidate_modality_, modality_id_, candidate_modality_id_);
    const int64_t depth = x_.depth;
    const int64_t panel_bytes = std::max<int64_t>(1, kernel_.cols * depth * sizeof(T));
    const int64_t chunk = kernel_.cols * std::clamp<int64_t>((8 << 20) / panel_bytes, 1, 1 << 16);
    const int64_t room = round_up(std::min(chunk, candidates_.count), kernel_.cols);
    Aligned<T> panels(room * depth), norm(room);
    Aligned<I> label(room), modality(room);
    for (int64_t first = 0; first < candidates_.count; first += chunk) {
      const int64_t count = std::min(chunk, candidates_.count - first);
      parallel_(0, (count + kernel_.cols - 1) / kernel_.cols, 1 + 16384 / (kernel_.cols * depth), [&](int64_t begin, int64_t end) {
        begin *= kernel_.cols;
        end = std::min(end * kernel_.cols, count);
        pack(candidates_, first + begin, end - begin, kernel_.cols, frame_, candidate_finite_, panels.memory + begin * depth, norm.memory + begin);
        copy_padded(candidate_label_id_, first + begin, end - begin, label.memory + begin);
        copy_padded(candidate_modality_id_, first + begin, end - begin, modality.memory + begin);
      });
      const PackedRows<T> packed{panels.memory, norm.memory, label.memory, modality.memory, count};
      search_chunk(packed, first, winners);
    }
  }

  void search_chunk(const PackedRows<T>& chunk, int64_t first, Winners<T> winners) {
    // A block of anchors that fits the second-level cache, yet leaves every thread something to do.
    const int64_t by_cache = (256 << 10) / (x_.depth * static_cast<int64_t>(sizeof(T)) + 1);
    const int64_t by_threads = (x_.count + threads_ - 1) / threads_;
    const int64_t block = round_up(std::clamp<int64_t>(std::min(by_cache, by_threads), 1, 1024), kernel_.rows);
    parallel_(0, (x_.count + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
      Aligned<T> panels(block * x_.depth), norm(block), scratch_value(kernel_.scratch(block));
      Aligned<I> label(block), modality(block), scratch_index(kernel_.scratch(block));
      for (int64_t b = begin; b < end; ++b) {
        const int64_t start = b * block, count = std::min(block, x_.count - start);
        pack(x_, start, count, kernel_.rows, frame_, finite_, panels.memory, norm.memory);
        std::copy_n(norm.memory, count, own_norm_.data() + start);
        copy_padded(label_id_, start, count, label.memory, kernel_.rows);
        copy_padded(modality_id_, start, count, modality.memory, kernel_.rows);
        const PackedRows<T> anchors{panels.memory, norm.memory, label.memory, modality.memory, count};
        const Winners<T> own{winners.value + start, winners.index + start, winners.stride};
        kernel_.update(anchors, exclude_.data() + start, chunk, first, x_.depth, scratch_value.memory, scratch_index.memory, own);
      }
    });
  }

  bool is_exact(int role) const { return within_is_exact_ && (role == kWithinPos || role == kWithinNeg); }

  // Turns the ranking values of anchor i into exact distances, after a second look at winners that cancellation may have misjudged.
  void finish(int64_t i, T* distance, int64_t* index) const {
    bool doubtful[kRoles] = {};
    bool any_doubtful = false;
    for (int role = 0; role < kRoles; ++role) {
      const int64_t at = role * x_.count + i;
      if (!finite_[i]) {
        distance[at] = std::numeric_limits<T>::quiet_NaN();
        index[at] = -1;
      } else if (index[at] >= 0 && !is_exact(role)) {
        doubtful[role] = is_doubtful(distance[at], i);
        any_doubtful |= doubtful[role];
      }
    }
    if (!finite_[i]) return;
    if (any_doubtful) measure_again(i, doubtful, index);
    for (int role = 0; role < kRoles; ++role) {
      const int64_t at = role * x_.count + i;
      if (index[at] >= 0 && !is_exact(role)) distance[at] = exact_distance<T>(x_.row(i), candidates_.row(index[at]), x_.depth);
    }
  }

  void measure_again(int64_t i, const bool (&doubtful)[kRoles], int64_t* index) const {
    T best[kRoles];
    for (int role = 0; role < kRoles; ++role) best[role] = worst(role);
    for (int64_t j = 0; j < candidates_.count; ++j) {
      const int role = role_of(candidate_labels_[j] == labels_[i], candidate_modality_[j] == modality_[i]);
      if (!doubtful[role] || !candidate_finite_[j] || j == exclude_[i] || (best[role] == 0 && !is_positive(role))) continue;
      // Not in the frame: one outlier sets its scale, and the squares of what is small beside it would vanish.
      const T d = exact_distance<T>(x_.row(i), candidates_.row(j), x_.depth);
      if (is_positive(role) ? d > best[role] : d < best[role]) {
        best[role] = d;
        index[role * x_.count + i] = j;
      }
    }
  }

  static int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

  void copy_padded(const std::vector<I>& source, int64_t first, int64_t count, I* target, int64_t multiple = 0) const {
    std::copy_n(source.data() + first, count, target);
    std::fill(target + count, target + round_up(count, multiple ? multiple : kernel_.cols), I(-1));
  }

  Rows<S> x_, candidates_;
  const int64_t *labels_, *modality_, *candidate_labels_, *candidate_modality_;
  std::vector<int64_t> exclude_;
  ParallelFor parallel_;
  int threads_;
  Isa isa_;
  const ExtremesKernel<T>& kernel_;
  bool self_, within_is_exact_ = false;
  std::vector<I> label_id_, modality_id_, candidate_label_id_, candidate_modality_id_;
  std::vector<uint8_t> finite_, candidate_finite_;
  std::vector<T> own_norm_;
  Frame<T> frame_;
};

}  // namespace zsml::cpu
