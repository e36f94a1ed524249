// CUDA registration of supcon and its gradient. Nothing here waits for the device, so a CUDA graph can capture it.
#include "supcon.cuh"

#include <tuple>

#include "../supcon_contract.h"
#include "pair_run.cuh"

namespace zsml::cuda {
namespace {

const int64_t* ids(const Tensor& t) { return input<int64_t>(t); }

template <class S>
SupconRows<S> rows_of(const SupconInput& in) {
  return {input<S>(in.x),
          input<S>(in.refs),
          ids(in.labels),
          ids(in.modality),
          ids(in.ref_labels),
          ids(in.ref_modality),
          in.exclude ? ids(*in.exclude) : nullptr,
          in.x.size(0),
          in.refs.size(0),
          in.x.size(1),
          in.self,
          in.temperature,
          in.pairs,
          in.per_pair};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> supcon(const Tensor& x, const Tensor& labels, const Tensor& modality, const OptionalTensor& refs,
                                                  const OptionalTensor& ref_labels, const OptionalTensor& ref_modality, const OptionalTensor& exclude,
                                                  double temperature, int64_t pairs, bool per_pair) {
  const SupconInput in(x, labels, modality, refs, ref_labels, ref_modality, exclude, temperature, pairs, per_pair);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const PairRun run(x);
  const ScalarType type = accumulate_type(x.scalar_type());
  const auto result = [&](ScalarType of) { return scratch(x, {in.x.size(0)}, of); };
  Tensor loss = result(type), lse = result(type), positives = result(ScalarType::Long), pull = result(type);
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    run_supcon<T>(run, rows_of<S>(in), data<T>(loss), data<T>(lse), data<int64_t>(positives), data<T>(pull));
  });
  return {loss, lse, positives, pull};
}

std::tuple<Tensor, Tensor> supcon_backward(const Tensor& grad, const Tensor& x, const Tensor& labels, const Tensor& modality,
                                           const OptionalTensor& refs, const OptionalTensor& ref_labels, const OptionalTensor& ref_modality,
                                           const OptionalTensor& exclude, double temperature, int64_t pairs, bool per_pair, const Tensor& lse,
                                           const Tensor& positives, const Tensor& pull, bool need_x, bool need_refs) {
  const SupconGradientInput in(grad, {x, labels, modality, refs, ref_labels, ref_modality, exclude, temperature, pairs, per_pair}, lse, positives,
                               pull);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const PairRun run(x);
  Tensor grad_x = scratch(x, {need_x ? in.x.size(0) : 0, in.x.size(1)}, x.scalar_type());
  Tensor grad_refs = scratch(x, {need_refs ? in.refs.size(0) : 0, in.x.size(1)}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    run_supcon_backward<T>(run, rows_of<S>(in), input<T>(in.grad), input<T>(in.lse), ids(in.positives), input<T>(in.pull),
                           need_x ? data<S>(grad_x) : nullptr, need_refs ? data<S>(grad_refs) : nullptr);
  });
  return {grad_x, grad_refs};
}

}  // namespace zsml::cuda

STABLE_TORCH_LIBRARY_IMPL(zsml, CUDA, m) {
  m.impl("supcon", TORCH_BOX(&zsml::cuda::supcon));
  m.impl("supcon_backward", TORCH_BOX(&zsml::cuda::supcon_backward));
}
