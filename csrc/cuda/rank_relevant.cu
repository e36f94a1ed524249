// CUDA registration of rank_relevant. The host waits once, for the length of the result.
// tests/native/rank_launches.h repeats the launches for an emulator on the CPU: change the two together.
#include "rank_relevant_count.cuh"
#include "rank_relevant_input.cuh"

namespace zsml::cuda {
namespace {

template <class S, class T>
void rank(const Tensor& query, const Tensor& gallery, const Tensor& exact_shift, double scale, bool cosine, const DeviceRelevantInput& relevant,
          const Tensor& out, cudaStream_t stream) {
  using Shape = TileShape<T>;
  const ScalarType type = accumulate_type(query.scalar_type());
  const int64_t queries = query.size(0), rows = gallery.size(0), depth = query.size(1), largest = relevant.largest;
  const Tensor shift = scratch(query, {depth}, type);
  round_shift<T><<<ceil_div(depth, kRankThreads), kRankThreads, 0, stream>>>(input<double>(exact_shift), depth, data<T>(shift));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Tensor plus = scratch(query, {rows}, type), times = scratch(query, {rows}, type);
  weigh_gallery<S, T><<<ceil_div(rows, kRankThreads), kRankThreads, 0, stream>>>(input<S>(gallery), rows, depth, data<T>(shift),
                                                                                 static_cast<T>(scale), cosine, data<T>(plus), data<T>(times));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  STD_CUDA_CHECK(cudaMemsetAsync(data<int32_t>(out), 0, kCounts * relevant.total * sizeof(int32_t), stream));

  const int64_t block = queries_at_once<T>(queries, rows);
  const size_t bytes = relevant_bytes<T>(largest);
  const bool fits = bytes <= kRelevantBytes;
  const Tensor value = scratch(query, {block, rows}, type);
  const Tensor room_value = scratch(query, {fits ? 0 : block * largest}, type),
               room_row = scratch(query, {fits ? 0 : block * largest}, ScalarType::Int);
  for (int64_t first = 0; first < queries; first += block) {
    const int64_t count = std::min(block, queries - first);
    value_tiles<S, T><<<ceil_div(count, Shape::height) * ceil_div(rows, Shape::width), Shape::threads, 0, stream>>>(
        input<S>(query) + first * depth, input<S>(gallery), count, rows, depth, data<T>(shift), static_cast<T>(scale), data<T>(plus), data<T>(times),
        data<T>(value));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const auto kernel = fits ? count_gaps<T, true> : count_gaps<T, false>;
    kernel<<<count, kRankThreads, fits ? bytes : 0, stream>>>(data<T>(value), relevant.device(), first, rows, largest, data<T>(room_value),
                                                              data<int32_t>(room_row), relevant.total, data<int32_t>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

}  // namespace

Tensor rank_relevant(const Tensor& query_, const Tensor& query_class, const Tensor& gallery_, const Tensor& order, const Tensor& starts,
                     const Tensor& shift_, double scale, bool cosine, [[maybe_unused]] const OptionalTensor& packed) {
  check_embeddings(query_, "query");
  check_embeddings(gallery_, "gallery");
  STD_TORCH_CHECK(query_.size(1) == gallery_.size(1) && query_.size(1) > 0, "query and gallery must have one width");
  STD_TORCH_CHECK(query_.scalar_type() == gallery_.scalar_type(), "query and gallery must have one dtype");
  STD_TORCH_CHECK(query_.size(0) > 0 && gallery_.size(0) > 0, "query and gallery must have at least one row");
  STD_TORCH_CHECK(shift_.scalar_type() == ScalarType::Double && shift_.dim() == 1 && shift_.size(0) == query_.size(1), "shift must be float64 [D]");
  STD_TORCH_CHECK(gallery_.device() == query_.device() && shift_.device() == query_.device(), "query, gallery and shift must be on one device");
  const torch::stable::accelerator::DeviceGuard guard(query_.get_device_index());
  const cudaStream_t stream = current_stream(query_);
  const Tensor query = torch::stable::contiguous(query_), gallery = torch::stable::contiguous(gallery_), shift = torch::stable::contiguous(shift_);
  const DeviceRelevantInput relevant(query_class, order, starts, query, gallery, stream);
  Tensor out = scratch(query, {kCounts, relevant.total}, ScalarType::Int);
  if (relevant.total == 0) return out;
  with_element_type(query.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    rank<S, T>(query, gallery, shift, scale, cosine, relevant, out, stream);
  });
  return out;
}

}  // namespace zsml::cuda

STABLE_TORCH_LIBRARY_IMPL(zsml, CUDA, m) { m.impl("rank_relevant", TORCH_BOX(&zsml::cuda::rank_relevant)); }
