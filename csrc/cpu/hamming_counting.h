// The counts around relevant codes, from one row of distances at a time.
#pragma once

#include "hamming_search.h"

namespace zsml::cpu {

// Counts per distance, in four tables used in turn: neighbours in a row often have the same distance, and one table would make
// each increment wait for the one before.
class DistanceCounts {
 public:
  explicit DistanceCounts(int64_t largest) : bins_(largest + 1), tables_(4 * bins_) {}

  template <class D>
  void count(const D* row, int64_t begin, int64_t end) {
    int32_t* table[4] = {tables_.data(), tables_.data() + bins_, tables_.data() + 2 * bins_, tables_.data() + 3 * bins_};
    int64_t j = begin;
    for (; j + 4 <= end; j += 4)
      for (int t = 0; t < 4; ++t) ++table[t][row[j + t]];
    for (; j < end; ++j) ++table[0][row[j]];
  }

  int32_t at(int64_t d) const { return tables_[d] + tables_[bins_ + d] + tables_[2 * bins_ + d] + tables_[3 * bins_ + d]; }
  int64_t bins() const { return bins_; }
  void clear() { std::fill(tables_.begin(), tables_.end(), 0); }

 private:
  int64_t bins_;
  std::vector<int32_t> tables_;
};

// The relevant codes of one query, in ascending order, and the counts around them (see rank_relevant.h).
template <class D>
class RelevantCounts {
 public:
  explicit RelevantCounts(int64_t largest) : counts_(largest), own_(largest + 1), before_(largest + 2) {}

  // result[c * stride + p], p = 0 .. relevant - 1
  void write(const D* row, int64_t count, const int64_t* relevant, int64_t relevant_count, int32_t* result, int64_t stride) {
    counts_.clear();
    std::fill(own_.begin(), own_.end(), 0);
    tied_before_.resize(relevant_count);
    int64_t from = 0;
    for (int64_t r = 0; r < relevant_count; ++r) {
      const int64_t j = relevant[r];
      counts_.count(row, from, j);
      from = j + 1;
      tied_before_[r] = counts_.at(row[j]);
      ++own_[row[j]];
    }
    counts_.count(row, from, count);
    // Counting sort of the relevant by distance; places_[d] is where the next one at distance d goes.
    places_.resize(own_.size());
    int32_t place = 0;
    for (size_t d = 0; d < own_.size(); ++d) {
      places_[d] = place;
      place += own_[d];
      before_[d + 1] = before_[d] + counts_.at(static_cast<int64_t>(d));
    }
    for (int64_t r = 0; r < relevant_count; ++r) {
      const D d = row[relevant[r]];
      int32_t* to = result + places_[d]++;
      to[kNearer * stride] = before_[d];
      to[kTiedBefore * stride] = tied_before_[r];
      to[kTied * stride] = before_[d + 1] - before_[d];
    }
  }

 private:
  DistanceCounts counts_;              // of the other classes
  std::vector<int32_t> own_, before_;  // of the relevant, per distance; of the others, below a distance
  std::vector<int32_t> tied_before_, places_;
};

}  // namespace zsml::cpu
