// CPU registration of supcon and its gradient; the work is in pair_softmax.h and symmetric_softmax.h.
#include "../supcon_contract.h"

#include <memory>
#include <numeric>
#include <tuple>

#include "symmetric_softmax.h"
#include "tensors.h"

namespace zsml::cpu {
namespace {

// Any int64 becomes its place among the distinct ids of the candidates, which fits a vector lane; -1 where none has it.
class DenseIds {
 public:
  DenseIds(const int64_t* ids, int64_t count) : known_(ids, ids + count) {
    std::sort(known_.begin(), known_.end());
    known_.erase(std::unique(known_.begin(), known_.end()), known_.end());
  }
  int64_t operator()(int64_t id) const {
    const auto at = std::lower_bound(known_.begin(), known_.end(), id);
    return at != known_.end() && *at == id ? at - known_.begin() : -1;
  }

 private:
  std::vector<int64_t> known_;
};

// Anchors and candidates, each by ascending label.
template <class S, class T>
struct SupconSides {
  std::unique_ptr<PairSide<S, T>> own, other;  // no other: without refs the anchors are the candidates
  PairSide<S, T>&anchors, &candidates;

  explicit SupconSides(const SupconInput& in)
      : SupconSides(in, DenseIds(ids(in.ref_labels), in.refs.size(0)), DenseIds(ids(in.ref_modality), in.refs.size(0))) {}

 private:
  SupconSides(const SupconInput& in, const DenseIds& label, const DenseIds& modality)
      : own(side(in.x, in.labels, in.modality, label, modality, in.pairs)),
        other(in.self ? nullptr : side(in.refs, in.ref_labels, in.ref_modality, label, modality, in.pairs)),
        anchors(*own),
        candidates(in.self ? *own : *other) {
    if (in.self) {
      anchors.skip.resize(anchors.count());
      std::iota(anchors.skip.begin(), anchors.skip.end(), int64_t{0});
    } else if (in.exclude) {
      std::vector<int64_t> place(candidates.count());
      for (int64_t p = 0; p < candidates.count(); ++p) place[candidates.order[p]] = p;
      anchors.skip.assign(anchors.count(), -1);
      for (int64_t p = 0; p < anchors.count(); ++p) {
        const int64_t row = ids(*in.exclude)[anchors.order[p]];
        if (0 <= row && row < candidates.count()) anchors.skip[p] = place[row];
      }
    }
  }

  static std::unique_ptr<PairSide<S, T>> side(const Tensor& x, const Tensor& labels, const Tensor& modality, const DenseIds& dense_label,
                                              const DenseIds& dense_modality, int pairs) {
    const int64_t count = x.size(0);
    std::vector<int64_t> order(count), label(count);
    for (int64_t i = 0; i < count; ++i) order[i] = i, label[i] = dense_label(ids(labels)[i]);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return label[a] < label[b]; });
    std::vector<uint8_t> finite;
    largest_coordinate<T>(rows<S>(x), finite, &parallel_for);
    auto made = std::make_unique<PairSide<S, T>>(rows<S>(x), std::move(order), finite);
    made->label.assign(made->padded(), -2);
    if (pairs != kAllPairs) made->modality.assign(made->padded(), -2);
    for (int64_t p = 0; p < count; ++p) {
      made->label[p] = static_cast<Integer<T>>(label[made->order[p]]);
      if (pairs != kAllPairs) made->modality[p] = static_cast<Integer<T>>(dense_modality(ids(modality)[made->order[p]]));
    }
    return made;
  }
};

template <class S, class T>
PairSetting<S, T> supcon_setting(const SupconInput& in) {
  return {{kInner, static_cast<T>(1 / in.temperature)},
          {T(1), std::vector<T>(in.x.size(1), T(0))},
          &parallel_for,
          static_cast<int>(torch::stable::get_num_threads()),
          best_isa()};
}

// Calls one of the two with what is to do the work.
template <class S, class T, class Symmetric, class General>
void with_softmax(const SupconInput& in, const SupconSides<S, T>& sides, const PairSetting<S, T>& setting, bool gradient, const Symmetric& symmetric,
                  const General& general) {
  if (in.self && SymmetricSoftmax<S, T>::pays(sides.anchors)) {
    const SymmetricSoftmax<S, T> both(sides.anchors, setting, in.pairs, in.per_pair, gradient);
    if (both.bounded()) return symmetric(both);
  }
  general(PairSoftmax<S, T>(sides.anchors, sides.candidates, setting, in.pairs, in.per_pair));
}

// Results by row: loss, lse, pull [B], positives [B].
template <class S, class T>
void run_supcon(const SupconInput& in, T* loss, T* lse, int64_t* positives, T* pull) {
  const SupconSides<S, T> sides(in);
  const PairSetting<S, T> setting = supcon_setting<S, T>(in);
  std::vector<AnchorSums> sums;
  with_softmax<S, T>(in, sides, setting, false, [&](const auto& both) { sums = both.sums(); }, [&](const auto& pairs) { sums = pairs.sums(); });
  std::vector<T> log_sum(sums.size());
  for (size_t p = 0; p < sums.size(); ++p) log_sum[p] = static_cast<T>(value(sums[p].all));
  std::vector<StripTerms> terms(sums.size(), StripTerms{0, 0, 0});
  if (in.per_pair) terms = PairSoftmax<S, T>(sides.anchors, sides.candidates, setting, in.pairs, true).terms(log_sum);
  for (int64_t p = 0; p < sides.anchors.count(); ++p) {
    const int64_t i = sides.anchors.order[p], number = in.per_pair ? terms[p].positives : sums[p].positives;
    const bool finite = sides.anchors.finite[p];
    const double own = in.per_pair ? terms[p].loss : number ? value(sums[p].all) - sums[p].positive / static_cast<double>(number) : 0;
    loss[i] = finite ? static_cast<T>(own) : std::numeric_limits<T>::quiet_NaN();
    lse[i] = finite ? log_sum[p] : std::numeric_limits<T>::quiet_NaN();
    pull[i] = finite ? static_cast<T>(terms[p].pull) : T(0);
    positives[i] = finite ? number : 0;
  }
}

template <class S, class T>
void run_supcon_backward(const SupconGradientInput& in, S* grad_x, S* grad_refs) {
  SupconSides<S, T> sides(in);
  const auto of = [](const Tensor& t) { return static_cast<const T*>(t.const_data_ptr()); };
  sides.anchors.set_pulls([&](int64_t i) { return anchor_pull(in.per_pair, of(in.grad)[i], of(in.lse)[i], ids(in.positives)[i], of(in.pull)[i]); });
  const PairSetting<S, T> setting = supcon_setting<S, T>(in);
  const auto into = [&](S* grad, const PairSide<S, T>& rows) {
    return [&setting, &rows, grad](int64_t place, const T* sum, T) {
      S* out = grad + rows.order[place] * rows.depth;
      for (int64_t k = 0; k < rows.depth; ++k) out[k] = static_cast<S>(sum[k] * setting.measure.scale);
    };
  };
  with_softmax<S, T>(
      in, sides, setting, true,
      [&](const auto& both) {
        if (grad_x) both.gradient(into(grad_x, sides.anchors));
        if (grad_refs) both.gradient(into(grad_refs, sides.anchors));
      },
      [&](const auto& pairs) {
        if (grad_x) pairs.gradient(sides.anchors, sides.candidates, into(grad_x, sides.anchors));
        if (grad_refs) pairs.gradient(sides.candidates, sides.anchors, into(grad_refs, sides.candidates));
      });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> supcon(const Tensor& x, const Tensor& labels, const Tensor& modality, const OptionalTensor& refs,
                                                  const OptionalTensor& ref_labels, const OptionalTensor& ref_modality, const OptionalTensor& exclude,
                                                  double temperature, int64_t pairs, bool per_pair) {
  const SupconInput in(x, labels, modality, refs, ref_labels, ref_modality, exclude, temperature, pairs, per_pair);
  const auto result = [&](ScalarType type) { return torch::stable::empty({in.x.size(0)}, type); };
  const ScalarType type = accumulate_type(x.scalar_type());
  Tensor loss = result(type), lse = result(type), positives = result(ScalarType::Long), pull = result(type);
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    run_supcon<S, T>(in, static_cast<T*>(loss.mutable_data_ptr()), static_cast<T*>(lse.mutable_data_ptr()),
                     static_cast<int64_t*>(positives.mutable_data_ptr()), static_cast<T*>(pull.mutable_data_ptr()));
  });
  return {loss, lse, positives, pull};
}

std::tuple<Tensor, Tensor> supcon_backward(const Tensor& grad, const Tensor& x, const Tensor& labels, const Tensor& modality,
                                           const OptionalTensor& refs, const OptionalTensor& ref_labels, const OptionalTensor& ref_modality,
                                           const OptionalTensor& exclude, double temperature, int64_t pairs, bool per_pair, const Tensor& lse,
                                           const Tensor& positives, const Tensor& pull, bool need_x, bool need_refs) {
  const SupconGradientInput in(grad, {x, labels, modality, refs, ref_labels, ref_modality, exclude, temperature, pairs, per_pair}, lse, positives,
                               pull);
  Tensor grad_x = torch::stable::empty({need_x ? in.x.size(0) : 0, in.x.size(1)}, x.scalar_type());
  Tensor grad_refs = torch::stable::empty({need_refs ? in.refs.size(0) : 0, in.x.size(1)}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    run_supcon_backward<S, typename Accumulate<S>::type>(in, need_x ? static_cast<S*>(grad_x.mutable_data_ptr()) : nullptr,
                                                         need_refs ? static_cast<S*>(grad_refs.mutable_data_ptr()) : nullptr);
  });
  return {grad_x, grad_refs};
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) {
  m.impl("supcon", TORCH_BOX(&zsml::cpu::supcon));
  m.impl("supcon_backward", TORCH_BOX(&zsml::cpu::supcon_backward));
}
