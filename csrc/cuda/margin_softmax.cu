// CUDA registration of margin_softmax and its gradient. Nothing here waits for the device, so a CUDA graph can capture it.
#include "margin_softmax.cuh"

#include <tuple>

#include "../margin_softmax_contract.h"
#include "pair_run.cuh"

namespace zsml::cuda {
namespace {

template <class S>
MarginSoftmaxRows<S> rows_of(const MarginSoftmaxInput& in) {
  return {input<S>(in.x), input<S>(in.centers), input<int64_t>(in.labels), in.x.size(0), in.centers.size(0), in.x.size(1), in.measure, in.scale};
}

}  // namespace

std::tuple<Tensor, Tensor> margin_softmax(const Tensor& x, const Tensor& centers, const Tensor& labels, int64_t measure, double scale) {
  const MarginSoftmaxInput in(x, centers, labels, measure, scale);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const PairRun run(x);
  Tensor others = scratch(x, {in.x.size(0)}, accumulate_type(x.scalar_type()));
  Tensor target = scratch(x, {in.x.size(0)}, accumulate_type(x.scalar_type()));
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    run_margin_softmax<T>(run, rows_of<S>(in), data<T>(others), data<T>(target));
  });
  return {others, target};
}

std::tuple<Tensor, Tensor> margin_softmax_backward(const Tensor& grad_others, const Tensor& grad_target, const Tensor& x, const Tensor& centers,
                                                   const Tensor& labels, const Tensor& others, const Tensor& target, int64_t measure, double scale,
                                                   bool need_x, bool need_centers) {
  const MarginSoftmaxGradientInput in(grad_others, grad_target, {x, centers, labels, measure, scale}, others, target);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const PairRun run(x);
  Tensor grad_x = scratch(x, {need_x ? in.x.size(0) : 0, in.x.size(1)}, x.scalar_type());
  Tensor grad_centers = scratch(x, {need_centers ? in.centers.size(0) : 0, in.x.size(1)}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    run_margin_softmax_backward<T>(run, rows_of<S>(in), input<T>(in.grad_others), input<T>(in.grad_target), input<T>(in.others), input<T>(in.target),
                                   need_x ? data<S>(grad_x) : nullptr, need_centers ? data<S>(grad_centers) : nullptr);
  });
  return {grad_x, grad_centers};
}

}  // namespace zsml::cuda

STABLE_TORCH_LIBRARY_IMPL(zsml, CUDA, m) {
  m.impl("margin_softmax", TORCH_BOX(&zsml::cuda::margin_softmax));
  m.impl("margin_softmax_backward", TORCH_BOX(&zsml::cuda::margin_softmax_backward));
}
