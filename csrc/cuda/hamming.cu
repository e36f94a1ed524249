// CUDA registration of the ops on packed codes. Nothing here waits for the device, so a CUDA graph can capture it; the one
// exception is hamming_rank_relevant, whose result is as long as the classes asked for are large.
// tests/native/hamming_launches.h repeats the launches for an emulator on the CPU: change the two together.
#include <tuple>

#include "../hamming_contract.h"
#include "hamming_relevant.cuh"
#include "hamming_select.cuh"
#include "rank_relevant_input.cuh"

namespace zsml::cuda {
namespace {

// Both sides in words: q [Q, words], g [words, N].
struct Words {
  int64_t words;
  Tensor q, g;

  Words(const HammingInput& in, cudaStream_t stream) : words(padded_words(in.width())) {
    q = pad(in.q, 1, words, stream);
    g = pad(in.g, in.codes(), 1, stream);
  }
  const uint64_t* queries() const { return input<uint64_t>(q); }
  const uint64_t* gallery() const { return input<uint64_t>(g); }

 private:
  Tensor pad(const Tensor& codes, int64_t word_stride, int64_t row_stride, cudaStream_t stream) {
    const int64_t rows = codes.size(0);
    Tensor out = scratch(codes, {rows * words}, ScalarType::Long);
    pad_words<<<ceil_div(rows * words, kCodeThreads), kCodeThreads, 0, stream>>>(input<uint8_t>(codes), rows, codes.size(1), words, word_stride,
                                                                                 row_stride, data<uint64_t>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return out;
  }
};

// Counters are 32 bits wide, distances int32.
void check_countable(const HammingInput& in) {
  STD_TORCH_CHECK(in.codes() < (int64_t{1} << 32), "g has ", in.codes(), " codes; on CUDA at most 2^32 - 1 can be selected from");
  STD_TORCH_CHECK(in.width() < (int64_t{1} << 28), "codes of ", in.width(), " bytes are too wide: their distances do not fit int32");
}

template <class Plan>
Tensor counter_scratch(const Plan& plan, const Tensor& like) {
  return scratch(like, {plan.scratch}, ScalarType::Int);
}

template <class Answer>
void select(const HammingInput& in, int64_t k, const Answer& answer, cudaStream_t stream) {
  check_countable(in);
  const Words words(in, stream);
  const SelectPlan plan = select_plan(in.queries(), in.width(), in.queries() < kFewQueries);
  const Tensor counters = counter_scratch(plan, in.q);
  plan.with_shape([&](auto shape) {
    hamming_select<decltype(shape), Answer><<<plan.blocks, plan.warps * kWarp, plan.shared, stream>>>(
        words.queries(), words.gallery(), in.queries(), in.codes(), words.words, 8 * in.width() + 1, k, data<uint32_t>(counters), answer);
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

Tensor hamming_distance(const Tensor& q, const Tensor& g) {
  const HammingInput in(q, g);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  const cudaStream_t stream = current_stream(q);
  check_countable(in);
  Tensor out = scratch(q, {in.queries(), in.codes()}, ScalarType::Int);
  const Words words(in, stream);
  with_words<4>(words.words, [&](auto shape) {
    using Shape = decltype(shape);
    const int64_t blocks = ceil_div(in.codes(), kCodeThreads) * ceil_div(in.queries(), Shape::queries);
    hamming_distances<Shape>
        <<<blocks, kCodeThreads, 0, stream>>>(words.queries(), words.gallery(), in.queries(), in.codes(), words.words, data<int32_t>(out));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

std::tuple<Tensor, Tensor> hamming_topk(const Tensor& q, const Tensor& g, int64_t k) {
  const HammingInput in(q, g);
  check_k(k, in.codes());
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Tensor distance = scratch(q, {in.queries(), k}, ScalarType::Int);
  Tensor index = scratch(q, {in.queries(), k}, ScalarType::Long);
  if (k > 0) select(in, k, NearestAnswer{data<int32_t>(distance), data<int64_t>(index)}, current_stream(q));
  return {distance, index};
}

Tensor hamming_rank(const Tensor& q, const Tensor& g) {
  const HammingInput in(q, g);
  check_rankable(in.codes());
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Tensor index = scratch(q, {in.queries(), in.codes()}, ScalarType::Int);
  select(in, in.codes(), RankAnswer{data<int32_t>(index)}, current_stream(q));
  return index;
}

Tensor hamming_rank_relevant(const Tensor& q, const Tensor& query_class, const Tensor& g, const Tensor& order, const Tensor& starts) {
  const HammingInput in(q, g);
  check_countable(in);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  const cudaStream_t stream = current_stream(q);
  const DeviceRelevantInput relevant(query_class, order, starts, in.q, in.g, stream);
  Tensor out = scratch(q, {kCounts, relevant.total}, ScalarType::Int);
  if (relevant.total == 0) return out;
  const Words words(in, stream);
  const RelevantPlan plan = relevant_plan(in.queries(), in.width(), in.queries() < kFewQueries);
  const Tensor counters = counter_scratch(plan, in.q);
  plan.with_shape([&](auto shape) {
    hamming_relevant<decltype(shape)><<<plan.blocks, plan.warps * kWarp, plan.shared, stream>>>(
        words.queries(), words.gallery(), relevant.device(), in.queries(), in.codes(), words.words, 8 * in.width() + 1, data<uint32_t>(counters),
        relevant.total, data<int32_t>(out));
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

Tensor pack_bits(const Tensor& bits) {
  STD_TORCH_CHECK(bits.scalar_type() == ScalarType::Bool, "bits must be bool");
  STD_TORCH_CHECK(bits.dim() == 2 && bits.numel() > 0, "bits must be [N, b] with at least one row and one bit per row");
  const torch::stable::accelerator::DeviceGuard guard(bits.get_device_index());
  const Tensor rows = torch::stable::contiguous(bits);
  const int64_t count = bits.size(0), b = bits.size(1), bytes = ceil_div(b, 8);
  Tensor codes = scratch(bits, {count, bytes}, ScalarType::Byte);
  pack_rows<<<ceil_div(count * bytes, kCodeThreads), kCodeThreads, 0, current_stream(bits)>>>(input<uint8_t>(rows), count, b, bytes,
                                                                                              data<uint8_t>(codes));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return codes;
}

Tensor unpack_bits(const Tensor& codes, int64_t b) {
  check_codes(codes, "codes");
  const int64_t count = codes.size(0), bytes = codes.size(1);
  STD_TORCH_CHECK(b > 0 && ceil_div(b, 8) == bytes, "b=", b, " bits do not pack into ", bytes, " bytes per row");
  const torch::stable::accelerator::DeviceGuard guard(codes.get_device_index());
  const Tensor rows = torch::stable::contiguous(codes);
  Tensor bits = scratch(codes, {count, b}, ScalarType::Bool);
  unpack_rows<<<ceil_div(count * b, kCodeThreads), kCodeThreads, 0, current_stream(codes)>>>(input<uint8_t>(rows), count, b, bytes,
                                                                                             data<uint8_t>(bits));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return bits;
}

}  // namespace zsml::cuda

STABLE_TORCH_LIBRARY_IMPL(zsml, CUDA, m) {
  m.impl("hamming_distance", TORCH_BOX(&zsml::cuda::hamming_distance));
  m.impl("hamming_topk", TORCH_BOX(&zsml::cuda::hamming_topk));
  m.impl("hamming_rank", TORCH_BOX(&zsml::cuda::hamming_rank));
  m.impl("hamming_rank_relevant", TORCH_BOX(&zsml::cuda::hamming_rank_relevant));
  m.impl("pack_bits", TORCH_BOX(&zsml::cuda::pack_bits));
  m.impl("unpack_bits", TORCH_BOX(&zsml::cuda::unpack_bits));
}
