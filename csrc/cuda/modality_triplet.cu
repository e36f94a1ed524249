// CUDA registration of modality_triplet and its gradient; the pairs between come from hardest_pairs.cu. Nothing here waits for the
// device, so a CUDA graph can capture it.
#include <tuple>

#include "../hardest_pairs_contract.h"
#include "common.cuh"
#include "modality_triplet.cuh"

namespace zsml::cuda {

// hardest_pairs.cu
std::tuple<Tensor, Tensor> hardest_pairs(const Tensor& x, const Tensor& labels, const Tensor& modality, const OptionalTensor& refs,
                                         const OptionalTensor& ref_labels, const OptionalTensor& ref_modality, const OptionalTensor& exclude,
                                         int64_t precision);
std::tuple<Tensor, Tensor> hardest_pairs_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& refs, const Tensor& distance,
                                                  const Tensor& index, bool need_x, bool need_refs);

namespace {

constexpr int64_t kRowsPerBlock = kUnitThreads / kWarp;

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> modality_triplet(const Tensor& x, const Tensor& labels, const Tensor& modality,
                                                                            int64_t terms, double margin, double beta, int64_t weighting,
                                                                            bool normalize, int64_t precision) {
  const HardestPairsInput in(x, labels, modality, {}, {}, {}, {});
  STD_TORCH_CHECK(terms > 0 && terms < 1 << kTerms, "terms must be a set of bits from 1 to 7, got ", terms);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const cudaStream_t stream = current_stream(x);
  const int64_t anchors = in.x.size(0), depth = in.x.size(1);
  const ScalarType type = accumulate_type(x.scalar_type());
  Tensor loss = scratch(x, {}, type);
  Tensor slope = scratch(x, {kRoles, anchors}, type);
  Tensor unit = scratch(x, {normalize ? anchors : 0, depth}, type);
  Tensor length = scratch(x, {normalize ? anchors : 0}, ScalarType::Double);
  if (normalize)
    with_element_type(x.scalar_type(), [&](auto element) {
      using S = decltype(element);
      using T = typename Accumulate<S>::type;
      unit_rows<S, T>
          <<<ceil_div(anchors, kRowsPerBlock), kUnitThreads, 0, stream>>>(input<S>(in.x), anchors, depth, data<T>(unit), data<double>(length));
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  auto [distance, index] = hardest_pairs(normalize ? unit : in.x, in.labels, in.modality, {}, {}, {}, {}, precision);
  const auto score = [&](auto value) {
    using T = decltype(value);
    triplet_loss<T><<<1, kLossThreads, 0, stream>>>(input<T>(distance), anchors, static_cast<int>(terms), margin, beta, static_cast<int>(weighting),
                                                    data<T>(loss), data<T>(slope));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (type == ScalarType::Double)
    score(double{});
  else
    score(float{});
  return {loss, slope, distance, index, unit, length};
}

Tensor modality_triplet_backward(const Tensor& grad, const Tensor& x, const Tensor& slope, const Tensor& distance, const Tensor& index,
                                 const Tensor& unit, const Tensor& length) {
  const bool normalized = length.size(0) > 0;
  const HardestPairsGradientInput in(slope, normalized ? unit : x, {}, distance, index);
  STD_TORCH_CHECK(grad.dim() == 0 && grad.scalar_type() == slope.scalar_type(), "grad must be a scalar of the loss's dtype");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const cudaStream_t stream = current_stream(x);
  const int64_t count = in.x.size(0), depth = in.x.size(1), slopes = kRoles * count;
  Tensor scaled = scratch(x, {kRoles, count}, slope.scalar_type());
  const Tensor lengths = torch::stable::contiguous(length);
  Tensor out = scratch(x, {normalized ? count : 0, depth}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    scale_slopes<T><<<ceil_div(slopes, kUnitThreads), kUnitThreads, 0, stream>>>(input<T>(grad), input<T>(in.grad), slopes, data<T>(scaled));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const Tensor gradient = std::get<0>(hardest_pairs_backward(scaled, in.x, {}, in.distance, in.index, true, false));
    if (!normalized) {
      out = gradient;
      return;
    }
    project_rows<S, T><<<ceil_div(count, kRowsPerBlock), kUnitThreads, 0, stream>>>(input<T>(gradient), input<T>(in.x), input<double>(lengths), count,
                                                                                    depth, data<S>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace zsml::cuda

STABLE_TORCH_LIBRARY_IMPL(zsml, CUDA, m) {
  m.impl("modality_triplet", TORCH_BOX(&zsml::cuda::modality_triplet));
  m.impl("modality_triplet_backward", TORCH_BOX(&zsml::cuda::modality_triplet_backward));
}
