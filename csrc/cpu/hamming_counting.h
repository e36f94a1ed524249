// The counts around relevant codes, from one row of distances at a time.
#pragma once

#include "hamming_search.h"

namespace zsml::cpu {

// Codes per distance.
class DistanceCounts {
 public:
  explicit DistanceCounts(int64_t largest) : counts_(largest + 1), part_(4 * counts_.size()) {}

  template <class D>
  void add(const D* row, int64_t begin, int64_t end) {
    const int64_t bins = static_cast<int64_t>(counts_.size());
    if (end - begin < 4 * bins) {
      for (int64_t j = begin; j < end; ++j) ++counts_[row[j]];
      return;
    }
    // Neighbours in a row often have the same distance. Four tables used in turn spare an increment the wait for the one before.
    std::fill(part_.begin(), part_.end(), 0);
    int32_t* part[4] = {part_.data(), part_.data() + bins, part_.data() + 2 * bins, part_.data() + 3 * bins};
    int64_t j = begin;
    for (; j + 4 <= end; j += 4)
      for (int t = 0; t < 4; ++t) ++part[t][row[j + t]];
    for (; j < end; ++j) ++part[0][row[j]];
    for (int64_t d = 0; d < bins; ++d) counts_[d] += part[0][d] + part[1][d] + part[2][d] + part[3][d];
  }

  int32_t operator[](int64_t d) const { return counts_[d]; }
  void clear() { std::fill(counts_.begin(), counts_.end(), 0); }

 private:
  std::vector<int32_t> counts_, part_;
};

// The relevant codes of one query, in ascending order, and the counts around them (see rank_relevant.h).
template <class D>
class RelevantCounts {
 public:
  explicit RelevantCounts(int64_t largest) : bins_(largest + 1), others_(largest), nearer_(largest + 2) {}

  // result[c * stride + p], p = 0 .. relevant_count - 1
  void write(const D* row, int64_t count, const int64_t* relevant, int64_t relevant_count, int32_t* result, int64_t stride) {
    others_.clear();
    distance_.resize(relevant_count);
    tied_before_.resize(relevant_count);
    int64_t from = 0;
    for (int64_t r = 0; r < relevant_count; ++r) {
      const int64_t j = relevant[r];
      others_.add(row, from, j);
      from = j + 1;
      distance_[r] = row[j];
      tied_before_[r] = others_[row[j]];
    }
    others_.add(row, from, count);
    for (int64_t d = 0; d < bins_; ++d) nearer_[d + 1] = nearer_[d] + others_[d];
    counting_sort(
        relevant_count, bins_, tables_, [&](int64_t r) { return static_cast<int64_t>(distance_[r]); },
        [&](int32_t to, int64_t r) {
          const int64_t d = distance_[r];
          result[kNearer * stride + to] = nearer_[d];
          result[kTiedBefore * stride + to] = tied_before_[r];
          result[kTied * stride + to] = nearer_[d + 1] - nearer_[d];
        });
  }

 private:
  int64_t bins_;
  DistanceCounts others_;                 // codes of other classes, as far as the row has been read
  std::vector<int32_t> nearer_, tables_;  // others below a distance; scratch of the sort
  std::vector<D> distance_;               // of the relevant, in the order of the row
  std::vector<int32_t> tied_before_;
};

}  // namespace zsml::cpu
