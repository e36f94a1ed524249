// CPU registration of modality_triplet and its gradient: unit rows, hardest pairs, the loss on their distances.
#include "../modality_triplet.h"

#include <tuple>

#include "../hardest_pairs_contract.h"
#include "hardest_pairs_search.h"
#include "pair_gradient.h"
#include "tensors.h"

namespace zsml::cpu {
namespace {

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Rows of length 1 in T, and how long they were; NaN throughout a row that is not finite. First to a largest coordinate near 1 by
// a power of two, so that no square over- or underflows.
template <class S, class T>
void unit_rows(Rows<S> x, T* unit, double* length, ParallelFor parallel) {
  const RowMaths<T>& maths = row_maths<T>(best_isa());
  const std::vector<T> none(x.depth, T(0));
  over_stripes(x.count, x.depth, parallel, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<T> buffer;
    for (int64_t i = begin; i < end; ++i) {
      const T* row = in_type<T>(x.row(i), x.depth, buffer);
      T* to = unit + i * x.depth;
      bool finite;
      const T largest = maths.largest(row, x.depth, finite);
      length[i] = 1;
      if (!finite || largest == T(0)) {
        std::fill_n(to, x.depth, finite ? T(0) : std::numeric_limits<T>::quiet_NaN());
        continue;
      }
      const T scale = power_of_two_near_inverse(largest);
      const T own = std::sqrt(maths.squared_length(row, x.depth, scale, none.data()));
      length[i] = static_cast<double>(own) / static_cast<double>(scale);
      for (int64_t k = 0; k < x.depth; ++k) to[k] = row[k] * scale / own;  // not scale / own first: it overflows for subnormal rows
    }
  });
}

// The loss, and slope [4, B] = d loss / d distance.
template <class T>
class TripletLoss {
 public:
  TripletLoss(const T* distance, int64_t anchors, int64_t terms, double margin, double beta, int64_t weighting)
      : distance_(distance), anchors_(anchors), terms_(terms), margin_(margin), beta_(beta), weighting_(weighting), hardness_(kTerms * anchors) {}

  double run(T* slope, ParallelFor parallel) {
    // Anchors in blocks of a fixed size, whose sums are added in order: the same on any number of threads.
    const int64_t blocks = (anchors_ + kBlock - 1) / kBlock;
    std::vector<double> phi(kTerms * blocks), hardness(kTerms * blocks);
    parallel(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin * kTerms; at < end * kTerms; ++at) sum(at / kTerms, static_cast<int>(at % kTerms), phi[at], hardness[at]);
    });
    double mean_phi[kTerms] = {}, mean_hardness[kTerms] = {};
    for (int64_t at = 0; at < kTerms * blocks; ++at) {
      mean_phi[at % kTerms] += phi[at] / static_cast<double>(anchors_);
      mean_hardness[at % kTerms] += hardness[at] / static_cast<double>(anchors_);
    }
    const TripletWeights weights(static_cast<int>(terms_), static_cast<int>(weighting_), mean_phi, mean_hardness);
    std::fill_n(slope, kRoles * anchors_, T(0));
    for (int t = 0; t < kTerms; ++t)
      if (terms_ >> t & 1) add_slope(t, weights, slope);
    return weights.loss;
  }

 private:
  static constexpr int64_t kBlock = 512;

  double violation(int t, int64_t i) const {
    return static_cast<double>(distance_[term_positive(t) * anchors_ + i]) - static_cast<double>(distance_[term_negative(t) * anchors_ + i]) +
           margin_;
  }

  void sum(int64_t block, int t, double& phi, double& hardness) {
    phi = hardness = 0;
    if (!(terms_ >> t & 1)) return;
    for (int64_t i = block * kBlock; i < std::min((block + 1) * kBlock, anchors_); ++i) {
      const double v = violation(t, i);
      phi += triplet_phi(v, beta_);
      if (beta_ != 0) hardness += hardness_[t * anchors_ + i] = triplet_sigmoid(beta_ * v);
    }
  }

  void add_slope(int t, const TripletWeights& weights, T* slope) const {
    for (int64_t i = 0; i < anchors_; ++i) {
      const double hardness = hardness_[t * anchors_ + i];
      const double by_violation =
          weights.by_term[t] * triplet_slope(violation(t, i), hardness, beta_) + weights.by_hardness[t] * beta_ * hardness * (1 - hardness);
      slope[term_positive(t) * anchors_ + i] += static_cast<T>(by_violation / static_cast<double>(anchors_));
      slope[term_negative(t) * anchors_ + i] -= static_cast<T>(by_violation / static_cast<double>(anchors_));
    }
  }

  const T* distance_;
  int64_t anchors_, terms_;
  double margin_, beta_;
  int64_t weighting_;
  std::vector<double> hardness_;
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> modality_triplet(const Tensor& x, const Tensor& labels, const Tensor& modality,
                                                                            int64_t terms, double margin, double beta, int64_t weighting,
                                                                            bool normalize, [[maybe_unused]] int64_t precision) {
  const HardestPairsInput in(x, labels, modality, {}, {}, {}, {});
  STD_TORCH_CHECK(terms > 0 && terms < 1 << kTerms, "terms must be a set of bits from 1 to 7, got ", terms);
  const int64_t anchors = in.x.size(0), depth = in.x.size(1);
  const ScalarType type = accumulate_type(x.scalar_type());
  Tensor loss = torch::stable::empty({}, type);
  Tensor slope = torch::stable::empty({kRoles, anchors}, type);
  Tensor distance = torch::stable::empty({kRoles, anchors}, type);
  Tensor index = torch::stable::empty({kRoles, anchors}, ScalarType::Long);
  Tensor unit = torch::stable::empty({normalize ? anchors : 0, depth}, type);
  Tensor length = torch::stable::empty({normalize ? anchors : 0}, ScalarType::Double);
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    const int threads = static_cast<int>(torch::stable::get_num_threads());
    const auto search = [&](auto candidates) {
      using Own = std::remove_const_t<std::remove_pointer_t<decltype(candidates.data)>>;
      HardestPairsSearch<Own, T>(candidates, ids(in.labels), ids(in.modality), &parallel_for, threads, best_isa())
          .run(data<T>(distance), data<int64_t>(index));
    };
    if (normalize) {
      unit_rows(rows<S>(in.x), data<T>(unit), data<double>(length), &parallel_for);
      search(rows<T>(unit));
    } else {
      search(rows<S>(in.x));
    }
    TripletLoss<T> triplet(data<T>(distance), anchors, terms, margin, beta, weighting);
    *data<T>(loss) = static_cast<T>(triplet.run(data<T>(slope), &parallel_for));
  });
  return {loss, slope, distance, index, unit, length};
}

// grad [], then what modality_triplet was given and gave; x [B, D] itself where nothing was normalized.
Tensor modality_triplet_backward(const Tensor& grad, const Tensor& x, const Tensor& slope, const Tensor& distance, const Tensor& index,
                                 const Tensor& unit, const Tensor& length) {
  const bool normalized = length.size(0) > 0;
  const HardestPairsGradientInput in(slope, normalized ? unit : x, {}, distance, index);
  STD_TORCH_CHECK(grad.dim() == 0 && grad.scalar_type() == slope.scalar_type(), "grad must be a scalar of the loss's dtype");
  check_partners(in);
  const int64_t count = in.x.size(0), depth = in.x.size(1);
  Tensor out = torch::stable::empty({count, depth}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    const T factor = *static_cast<const T*>(grad.const_data_ptr());
    std::vector<T> scaled(kRoles * count);
    for (int64_t at = 0; at < kRoles * count; ++at) scaled[at] = factor * static_cast<const T*>(in.grad.const_data_ptr())[at];
    const auto gradient = [&](auto from, auto finish) {
      using Own = std::remove_const_t<std::remove_pointer_t<decltype(from.data)>>;
      PairGradient<Own, T>(from, from, scaled.data(), static_cast<const T*>(in.distance.const_data_ptr()), ids(in.index), &parallel_for)
          .of_anchors(data<S>(out), true, finish);
    };
    if (!normalized) return gradient(rows<S>(in.x), [](int64_t, std::vector<T>&) {});
    const Rows<T> from = rows<T>(in.x);
    const RowMaths<T>& maths = row_maths<T>(best_isa());
    const Tensor all_lengths = torch::stable::contiguous(length);
    const double* lengths = static_cast<const double*>(all_lengths.const_data_ptr());
    gradient(from, [&](int64_t i, std::vector<T>& sum) {  // through u = x / |x|
      const T along = maths.inner(sum.data(), from.row(i), depth);
      if (along == along) maths.subtract_and_scale(sum.data(), from.row(i), depth, along, 1 / lengths[i]);  // a NaN row has sum 0
    });
  });
  return out;
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) {
  m.impl("modality_triplet", TORCH_BOX(&zsml::cpu::modality_triplet));
  m.impl("modality_triplet_backward", TORCH_BOX(&zsml::cpu::modality_triplet_backward));
}
