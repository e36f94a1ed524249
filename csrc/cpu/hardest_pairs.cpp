// CPU registration of hardest_pairs and its gradient; the work is in hardest_pairs_search.h and pair_gradient.h.
#include <tuple>

#include "../hardest_pairs_contract.h"
#include "hardest_pairs_search.h"
#include "pair_gradient.h"
#include "tensors.h"

namespace zsml::cpu {
std::tuple<Tensor, Tensor> hardest_pairs(const Tensor& x, const Tensor& labels, const Tensor& modality, const OptionalTensor& refs,
                                         const OptionalTensor& ref_labels, const OptionalTensor& ref_modality, const OptionalTensor& exclude,
                                         [[maybe_unused]] int64_t precision) {  // the CPU search always has the precision of its accumulator
  const HardestPairsInput in(x, labels, modality, refs, ref_labels, ref_modality, exclude);
  const int64_t anchors = in.x.size(0);
  Tensor distance = torch::stable::empty({kRoles, anchors}, accumulate_type(x.scalar_type()));
  Tensor index = torch::stable::empty({kRoles, anchors}, ScalarType::Long);
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    const int threads = static_cast<int>(torch::stable::get_num_threads());
    auto search = in.self
                      ? HardestPairsSearch<S, T>(rows<S>(in.x), ids(in.labels), ids(in.modality), &parallel_for, threads, best_isa())
                      : HardestPairsSearch<S, T>(rows<S>(in.x), ids(in.labels), ids(in.modality), rows<S>(in.refs), ids(in.ref_labels),
                                                 ids(in.ref_modality), in.exclude ? ids(*in.exclude) : nullptr, &parallel_for, threads, best_isa());
    search.run(static_cast<T*>(distance.mutable_data_ptr()), static_cast<int64_t*>(index.mutable_data_ptr()));
  });
  return {distance, index};
}

std::tuple<Tensor, Tensor> hardest_pairs_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& refs, const Tensor& distance,
                                                  const Tensor& index, bool need_x, bool need_refs) {
  const HardestPairsGradientInput in(grad, x, refs, distance, index);
  check_partners(in);
  Tensor grad_x = torch::stable::empty({need_x ? in.x.size(0) : 0, in.x.size(1)}, x.scalar_type());
  Tensor grad_refs = torch::stable::empty({need_refs ? in.refs.size(0) : 0, in.x.size(1)}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    const PairGradient<S, T> gradient(rows<S>(in.x), rows<S>(in.refs), static_cast<const T*>(in.grad.const_data_ptr()),
                                      static_cast<const T*>(in.distance.const_data_ptr()), ids(in.index), &parallel_for);
    if (need_x) gradient.of_anchors(static_cast<S*>(grad_x.mutable_data_ptr()), in.self);
    if (need_refs) gradient.of_refs(static_cast<S*>(grad_refs.mutable_data_ptr()));
  });
  return {grad_x, grad_refs};
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) {
  m.impl("hardest_pairs", TORCH_BOX(&zsml::cpu::hardest_pairs));
  m.impl("hardest_pairs_backward", TORCH_BOX(&zsml::cpu::hardest_pairs_backward));
}
