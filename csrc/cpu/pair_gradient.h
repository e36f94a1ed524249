// The backward pass of hardest_pairs without torch. With g the gradient of d(i, j):
//   d d(i, j) / d x_i = (x_i - r_j) / d(i, j) = - d d(i, j) / d r_j,  and 0 where d = 0.
// Every row gathers what belongs to it in a fixed order, so there are no atomics and the result never depends on threads.
#pragma once

#include <cstdint>
#include <vector>

#include "pack.h"

namespace zsml::cpu {

template <class S, class T>
class PairGradient {
 public:
  // grad, distance, index: [4, B]. Pairs without a partner, at distance 0 or too far apart for T contribute nothing.
  PairGradient(Rows<S> x, Rows<S> refs, const T* grad, const T* distance, const int64_t* index, ParallelFor parallel)
      : x_(x), refs_(refs), grad_(grad), distance_(distance), index_(index), parallel_(parallel) {}

  // grad_x [B, D]: each anchor's own four pairs, and where the candidates are x itself also the pairs that chose the row.
  template <class To>
  void of_anchors(To* out, bool self) const {
    of_anchors(out, self, [](int64_t, std::vector<T>&) {});
  }

  // The same, and finish(i, sum) may change the sum of row i before it is written.
  template <class To, class Finish>
  void of_anchors(To* out, bool self, const Finish& finish) const {
    const Incoming chosen = self ? group_by_partner() : Incoming{};
    parallel_(0, x_.count, grain(), [&](int64_t begin, int64_t end) {
      std::vector<T> sum(x_.depth);
      for (int64_t i = begin; i < end; ++i) {
        std::fill(sum.begin(), sum.end(), T(0));
        for (int64_t at = i; at < kRoles * x_.count; at += x_.count)
          if (counts(at)) add(x_.row(i), refs_.row(index_[at]), weight(at), sum);
        if (self) gather(i, chosen, sum);
        finish(i, sum);
        store(sum, out + i * x_.depth);
      }
    });
  }

  // grad_refs [M, D]: the pairs that chose the row.
  void of_refs(S* out) const {
    const Incoming chosen = group_by_partner();
    parallel_(0, refs_.count, grain(), [&](int64_t begin, int64_t end) {
      std::vector<T> sum(refs_.depth);
      for (int64_t j = begin; j < end; ++j) {
        std::fill(sum.begin(), sum.end(), T(0));
        gather(j, chosen, sum);
        store(sum, out + j * refs_.depth);
      }
    });
  }

 private:
  // Pairs grouped by the row they chose: row j was chosen by pair[start[j]] .. pair[start[j + 1] - 1], each role * B + i.
  struct Incoming {
    std::vector<int64_t> start, pair;
  };

  bool counts(int64_t at) const { return index_[at] >= 0 && distance_[at] > T(0) && distance_[at] <= std::numeric_limits<T>::max(); }
  T weight(int64_t at) const { return grad_[at] / distance_[at]; }
  int64_t grain() const { return 1 + 4096 / (x_.depth + 1); }

  Incoming group_by_partner() const {
    Incoming in;
    in.start.assign(refs_.count + 1, 0);
    const int64_t pairs = kRoles * x_.count;
    for (int64_t at = 0; at < pairs; ++at)
      if (counts(at)) ++in.start[index_[at] + 1];
    for (int64_t j = 0; j < refs_.count; ++j) in.start[j + 1] += in.start[j];
    in.pair.resize(in.start.back());
    std::vector<int64_t> next(in.start.begin(), in.start.end() - 1);
    for (int64_t at = 0; at < pairs; ++at)
      if (counts(at)) in.pair[next[index_[at]]++] = at;
    return in;
  }

  void gather(int64_t j, const Incoming& chosen, std::vector<T>& sum) const {
    for (int64_t p = chosen.start[j]; p < chosen.start[j + 1]; ++p) {
      const int64_t at = chosen.pair[p];
      add(refs_.row(j), x_.row(at % x_.count), weight(at), sum);
    }
  }

  void add(const S* from, const S* to, T weight, std::vector<T>& sum) const {
    if constexpr (std::is_same_v<S, T>) return maths_.add_difference(sum.data(), from, to, static_cast<int64_t>(sum.size()), weight);
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += weight * (static_cast<T>(from[k]) - static_cast<T>(to[k]));
  }

  template <class To>
  static void store(const std::vector<T>& sum, To* out) {
    for (size_t k = 0; k < sum.size(); ++k) out[k] = static_cast<To>(sum[k]);
  }

  Rows<S> x_, refs_;
  const T* grad_;
  const T* distance_;
  const int64_t* index_;
  ParallelFor parallel_;
  const RowMaths<T>& maths_ = row_maths<T>(best_isa());
};

}  // namespace zsml::cpu
