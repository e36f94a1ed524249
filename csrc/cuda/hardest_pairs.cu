// CUDA registration of hardest_pairs and its gradient. Small batches take one launch (hardest_pairs_small.cuh); large ones go
// through frame.cuh and hardest_pairs_mma.cuh, or hardest_pairs_tiled.cuh for float64. Nothing here waits for the device, so a CUDA graph can capture
// it. tests/native/cuda_launches.h repeats the launches for an emulator on the CPU: change the two together.
#include <algorithm>
#include <array>
#include <tuple>

#include "../hardest_pairs_contract.h"
#include "common.cuh"
#include "frame.cuh"
#include "hardest_pairs_mma.cuh"
#include "hardest_pairs_small.cuh"
#include "hardest_pairs_tiled.cuh"
#include "pair_gradient.cuh"

namespace zsml::cuda {
namespace {

// Up to this many pairs, measuring each directly in one launch beats the several launches of the tiled search.
constexpr int64_t kSmallPairs = 1 << 19;
constexpr int64_t kSmallCandidates = 16384;  // a single block goes through all of them
// Up to this many reads of index the gradient scans it; beyond, it sorts.
constexpr int64_t kScanReads = int64_t{1} << 26;
constexpr int64_t kRowsPerBlock = kRowThreads / kWarp;

const int64_t* ids(const Tensor& t) { return input<int64_t>(t); }
const int64_t* ids(const OptionalTensor& t) { return t ? ids(*t) : nullptr; }

template <class S, class T>
void launch_small(const HardestPairsInput& in, const Tensor& distance, const Tensor& index, cudaStream_t stream) {
  const int64_t anchors = in.x.size(0), candidates = in.refs.size(0);
  hardest_pairs_small<S, T><<<anchors, kSmallThreads, 0, stream>>>(input<S>(in.x), ids(in.labels), ids(in.modality), input<S>(in.refs),
                                                                   ids(in.ref_labels), ids(in.ref_modality), ids(in.exclude), in.self, anchors,
                                                                   candidates, in.x.size(1), data<T>(distance), data<int64_t>(index));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The frame of a large search: which rows count, the scale and the shift.
template <class S, class T>
struct Frame {
  Tensor finite, ref_finite, largest, shift, centred;

  Frame(const HardestPairsInput& in, cudaStream_t stream) {
    const ScalarType type = accumulate_type(in.x.scalar_type());
    const int64_t depth = in.x.size(1), candidates = in.refs.size(0);
    largest = scratch(in.x, {1}, type);
    shift = scratch(in.x, {depth}, type);
    centred = scratch(in.x, {1}, ScalarType::Int);
    const Tensor sums = scratch(in.x, {2, kStripes, depth}, ScalarType::Double);
    STD_CUDA_CHECK(cudaMemsetAsync(data<T>(largest), 0, sizeof(T), stream));
    inspect(in.refs, ref_finite, stream);
    if (in.self)
      finite = ref_finite;
    else
      inspect(in.x, finite, stream);
    sum_columns<S, T><<<dim3(ceil_div(depth, kColumnsPerBlock), kStripes), dim3(kColumnsPerBlock, kStripeRows), 0, stream>>>(
        input<S>(in.refs), data<uint8_t>(ref_finite), candidates, depth, data<T>(largest), data<double>(sums), data<double>(sums) + kStripes * depth);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    choose_shift<T><<<1, kShiftThreads, 0, stream>>>(data<double>(sums), data<double>(sums) + kStripes * depth, data<uint8_t>(ref_finite), candidates,
                                                     depth, data<T>(shift), data<int>(centred));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  void inspect(const Tensor& rows, Tensor& out, cudaStream_t stream) {
    out = scratch(rows, {std::max<int64_t>(rows.size(0), 1)}, ScalarType::Byte);
    if (rows.size(0) == 0) return;
    inspect_rows<S, T><<<ceil_div(rows.size(0), kRowsPerBlock), kRowThreads, 0, stream>>>(input<S>(rows), rows.size(0), rows.size(1),
                                                                                          data<uint8_t>(out), data<T>(largest));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

template <class S, class T, class Winners>
void launch_finish(const HardestPairsInput& in, const Frame<S, T>& frame, const Winners& winners, const Tensor& distance, const Tensor& index,
                   cudaStream_t stream) {
  const int64_t anchors = in.x.size(0);
  finish_anchors<S, T><<<anchors, kRoles * kWarp, 0, stream>>>(input<S>(in.x), data<uint8_t>(frame.finite), ids(in.labels), ids(in.modality),
                                                               input<S>(in.refs), data<uint8_t>(frame.ref_finite), ids(in.ref_labels),
                                                               ids(in.ref_modality), ids(in.exclude), in.self, anchors, in.refs.size(0), in.x.size(1),
                                                               winners, data<T>(distance), data<int64_t>(index));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// ---- v1 ------------------------------------------------------------------------------------------------------------------------

template <class S, class T>
Tensor launch_measure(const Frame<S, T>& frame, const Tensor& rows, const Tensor& usable, cudaStream_t stream) {
  const Tensor norm = scratch(rows, {std::max<int64_t>(rows.size(0), 1)}, accumulate_type(rows.scalar_type()));
  if (rows.size(0) == 0) return norm;
  measure_rows<S, T><<<ceil_div(rows.size(0), kRowsPerBlock), kRowThreads, 0, stream>>>(
      input<S>(rows), data<uint8_t>(usable), rows.size(0), rows.size(1), data<T>(frame.largest), data<T>(frame.shift), data<T>(norm));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return norm;
}

template <class S, class T>
void launch_tiled(const HardestPairsInput& in, const Tensor& distance, const Tensor& index, cudaStream_t stream) {
  using Shape = TileShape<T>;
  const int64_t anchors = in.x.size(0), candidates = in.refs.size(0), depth = in.x.size(1);
  const Frame<S, T> frame(in, stream);
  const Tensor ref_norm = launch_measure(frame, in.refs, frame.ref_finite, stream);
  const Tensor norm = in.self ? ref_norm : launch_measure(frame, in.x, frame.finite, stream);
  // Few anchors: share the candidates out over more blocks. About 512 blocks fill any present device.
  const int64_t anchor_tiles = ceil_div(anchors, Shape::height);
  const int64_t splits = std::clamp<int64_t>(ceil_div(512, anchor_tiles), 1, std::clamp<int64_t>(ceil_div(candidates, Shape::width), 1, 64));
  const Tensor value = scratch(in.x, {splits, kRoles, anchors}, accumulate_type(in.x.scalar_type()));
  const Tensor where = scratch(in.x, {splits, kRoles, anchors}, ScalarType::Long);
  const PartialWinners<T> partial{data<T>(value), data<int64_t>(where), data<T>(norm), anchors, static_cast<int>(splits)};
  search_tiles<S, T><<<dim3(anchor_tiles, splits), Shape::threads, 0, stream>>>(
      input<S>(in.x), data<uint8_t>(frame.finite), ids(in.labels), ids(in.modality), input<S>(in.refs), data<uint8_t>(frame.ref_finite),
      data<T>(ref_norm), ids(in.ref_labels), ids(in.ref_modality), ids(in.exclude), in.self, anchors, candidates, depth, data<T>(frame.largest),
      data<T>(frame.shift), partial);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch_finish(in, frame, partial, distance, index, stream);
}

// ---- v2 ------------------------------------------------------------------------------------------------------------------------

// Rows packed for the tensor cores, with the memory they lie in.
struct Packed {
  Tensor operand, cards;
  Panels panels;
};

// keys [parts, .., 4] of the rows as anchors, or null.
template <class Native, class Centred, class S>
Packed launch_pack(const HardestPairsInput& in, const Frame<S, float>& frame, bool anchors, Key* keys, int parts, cudaStream_t stream) {
  const Tensor& rows = anchors ? in.x : in.refs;
  const int64_t count = rows.size(0), depth = rows.size(1), panels = ceil_div(count, kPanelRows);
  const int64_t stages = std::max(ceil_div(depth, Native::depth), ceil_div(depth, Centred::depth));  // which of the two, the device decides
  Packed out{scratch(rows, {panels * stages * kStageChunks * static_cast<int64_t>(sizeof(Chunk))}, ScalarType::Byte),
             scratch(rows, {panels * kPanelRows * static_cast<int64_t>(sizeof(Card))}, ScalarType::Byte),
             {}};
  out.panels = {data<Chunk>(out.operand), data<Card>(out.cards), panels};
  pack_rows<Native, Centred, S><<<ceil_div(panels * kPanelRows, kPackThreads / kWarp), kPackThreads, 0, stream>>>(
      input<S>(rows), data<uint8_t>(anchors ? frame.finite : frame.ref_finite), ids(anchors ? in.labels : in.ref_labels),
      ids(anchors ? in.modality : in.ref_modality), anchors ? ids(in.exclude) : nullptr, in.self, count, depth, data<float>(frame.largest),
      data<float>(frame.shift), data<int>(frame.centred), out.panels, keys, parts);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

template <class Native, class Centred, class S>
void launch_mma(const HardestPairsInput& in, const Tensor& distance, const Tensor& index, cudaStream_t stream) {
  STD_TORCH_CHECK(in.refs.size(0) < (int64_t{1} << 31) - kPanelRows, "refs must have fewer than 2^31 rows");
  const Frame<S, float> frame(in, stream);
  const int parts = in.self ? 2 : 1;
  const int64_t rows = ceil_div(in.x.size(0), kPanelRows) * kPanelRows, depth = in.x.size(1);
  const Tensor all_keys = scratch(in.x, {parts, rows, kRoles}, ScalarType::Long);
  Key* keys = static_cast<Key*>(all_keys.mutable_data_ptr());
  const Packed anchors = launch_pack<Native, Centred, S>(in, frame, true, keys, parts, stream);
  const Packed candidates = in.self ? anchors : launch_pack<Native, Centred, S>(in, frame, false, nullptr, 0, stream);
  const int64_t blocks = mma_blocks(in.self, anchors.panels.count, candidates.panels.count);
  const auto search = in.self ? search_mma<Native, Centred, true> : search_mma<Native, Centred, false>;
  search<<<blocks, kMmaThreads, 0, stream>>>(anchors.panels, candidates.panels, depth, data<float>(frame.largest), data<int>(frame.centred), keys);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  launch_finish(in, frame, PackedWinners{keys, anchors.panels.cards, rows, parts}, distance, index, stream);
}

// precision: 0 highest, 1 high, 2 medium, as torch.get_float32_matmul_precision names them.
template <class S, class T>
void launch_large(const HardestPairsInput& in, int64_t precision, const Tensor& distance, const Tensor& index, cudaStream_t stream) {
  if constexpr (std::is_same_v<S, double>)
    launch_tiled<S, T>(in, distance, index, stream);
  else if constexpr (std::is_same_v<S, torch::headeronly::Half>)
    launch_mma<Float16, Tf32, S>(in, distance, index, stream);
  else if constexpr (std::is_same_v<S, torch::headeronly::BFloat16>)
    launch_mma<Brain16, Tf32, S>(in, distance, index, stream);
  else if (precision == 0)
    launch_mma<SplitTf32, SplitTf32, S>(in, distance, index, stream);
  else
    launch_mma<Tf32, Tf32, S>(in, distance, index, stream);
}

// aten::sort.stable: (values, indices), ascending.
std::tuple<Tensor, Tensor> stable_sort(const Tensor& t) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{from(t), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

template <class S, class T>
void launch_gradient(const HardestPairsGradientInput& in, bool own, bool incoming, const Tensor& out, cudaStream_t stream) {
  const int64_t rows = out.size(0), anchors = in.x.size(0), depth = in.x.size(1);
  if (rows == 0) return;
  Tensor sorted, order;
  const bool sort = incoming && kRoles * anchors > kScanReads / rows;
  if (sort) std::tie(sorted, order) = stable_sort(torch::stable::view(in.index, {kRoles * anchors}));
  const Pairs<S, T> pairs{input<S>(in.x), input<S>(in.refs), input<T>(in.grad), input<T>(in.distance), ids(in.index), anchors, depth};
  pair_gradient<S, T><<<dim3(rows, ceil_div(depth, kGradientColumns)), kGradientThreads, 0, stream>>>(
      pairs, own, incoming, sort ? ids(sorted) : nullptr, sort ? ids(order) : nullptr, data<S>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

std::tuple<Tensor, Tensor> hardest_pairs(const Tensor& x, const Tensor& labels, const Tensor& modality, const OptionalTensor& refs,
                                         const OptionalTensor& ref_labels, const OptionalTensor& ref_modality, const OptionalTensor& exclude,
                                         int64_t precision) {
  const HardestPairsInput in(x, labels, modality, refs, ref_labels, ref_modality, exclude);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const cudaStream_t stream = current_stream(x);
  const int64_t anchors = in.x.size(0), candidates = in.refs.size(0);
  Tensor distance = scratch(x, {kRoles, anchors}, accumulate_type(x.scalar_type()));
  Tensor index = scratch(x, {kRoles, anchors}, ScalarType::Long);
  const bool small = candidates <= kSmallCandidates && candidates <= kSmallPairs / anchors;
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    if (small)
      launch_small<S, T>(in, distance, index, stream);
    else
      launch_large<S, T>(in, precision, distance, index, stream);
  });
  return {distance, index};
}

std::tuple<Tensor, Tensor> hardest_pairs_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& refs, const Tensor& distance,
                                                  const Tensor& index, bool need_x, bool need_refs) {
  const HardestPairsGradientInput in(grad, x, refs, distance, index);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const cudaStream_t stream = current_stream(x);
  Tensor grad_x = scratch(x, {need_x ? in.x.size(0) : 0, in.x.size(1)}, x.scalar_type());
  Tensor grad_refs = scratch(x, {need_refs ? in.refs.size(0) : 0, in.x.size(1)}, x.scalar_type());
  with_element_type(x.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    launch_gradient<S, T>(in, true, in.self, grad_x, stream);
    launch_gradient<S, T>(in, false, true, grad_refs, stream);
  });
  return {grad_x, grad_refs};
}

std::string cuda_architectures() { return ZSML_CUDA_TARGETS; }

}  // namespace zsml::cuda

STABLE_TORCH_LIBRARY_IMPL(zsml, CUDA, m) {
  m.impl("hardest_pairs", TORCH_BOX(&zsml::cuda::hardest_pairs));
  m.impl("hardest_pairs_backward", TORCH_BOX(&zsml::cuda::hardest_pairs_backward));
}

STABLE_TORCH_LIBRARY_IMPL(zsml, CompositeExplicitAutograd, m) { m.impl("cuda_architectures", TORCH_BOX(&zsml::cuda::cuda_architectures)); }
