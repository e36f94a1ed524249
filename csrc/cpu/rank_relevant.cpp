// CPU registration of rank_relevant; the work is in rank_relevant_search.h.
#include <numeric>
#include <type_traits>

#include "../rank_relevant_contract.h"
#include "huge_pages.h"
#include "rank_relevant_search.h"
#include "tensors.h"

namespace zsml::cpu {
namespace {

// What both ops ask of gallery and shift.
void check_gallery(const Tensor& gallery, const Tensor& order, const Tensor& shift) {
  check_embeddings(gallery, "gallery");
  STD_TORCH_CHECK(gallery.size(1) > 0, "gallery must have at least one column");
  check_ids(order, "order", gallery.size(0), gallery);
  STD_TORCH_CHECK(shift.scalar_type() == ScalarType::Double && shift.dim() == 1 && shift.size(0) == gallery.size(1), "shift must be float64 [D]");
}

template <class T>
Frame<T> frame_of(const Tensor& shift, double scale) {
  const auto* by = static_cast<const double*>(shift.const_data_ptr());
  return {static_cast<T>(scale), std::vector<T>(by, by + shift.size(0))};
}

template <class S, class T>
Tensor packed_as(const Tensor& gallery, const int64_t* order, const Tensor& shift, double scale, bool cosine) {
  const StripKernel<T>& kernel = strip_kernel<T>(best_isa());
  const int64_t count = gallery.size(0), depth = gallery.size(1);
  Tensor packed =
      torch::stable::empty({PackedGallery<T>::elements(kernel, count, depth)}, std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float);
  auto* memory = static_cast<T*>(packed.mutable_data_ptr());
  advise_huge_pages(memory, packed.numel() * static_cast<int64_t>(sizeof(T)));
  PackedGallery<T>(memory, kernel, count, depth).fill(rows<S>(gallery), order, frame_of<T>(shift, scale), cosine, kernel, &parallel_for);
  return packed;
}

}  // namespace

// The gallery in class order, as rank_relevant reads it: for callers with several batches of queries. Its layout is nobody's business.
Tensor pack_gallery(const Tensor& gallery_, const Tensor& order_, const Tensor& shift_, double scale, bool cosine) {
  check_gallery(gallery_, order_, shift_);
  const Tensor gallery = torch::stable::contiguous(gallery_), order = torch::stable::contiguous(order_), shift = torch::stable::contiguous(shift_);
  const auto* places = ids(order);
  for (int64_t j = 0; j < order.numel(); ++j)
    STD_TORCH_CHECK(0 <= places[j] && places[j] < gallery.size(0), "order must hold rows of the gallery, got ", places[j]);
  Tensor packed;
  with_element_type(gallery.scalar_type(), [&](auto element) {
    using S = decltype(element);
    packed = packed_as<S, typename Accumulate<S>::type>(gallery, places, shift, scale, cosine);
  });
  return packed;
}

Tensor rank_relevant(const Tensor& query_, const Tensor& query_class, const Tensor& gallery_, const Tensor& order, const Tensor& starts,
                     const Tensor& shift_, double scale, bool cosine, const OptionalTensor& packed) {
  check_embeddings(query_, "query");
  check_gallery(gallery_, order, shift_);
  STD_TORCH_CHECK(query_.size(1) == gallery_.size(1), "query and gallery must have one width");
  STD_TORCH_CHECK(query_.scalar_type() == gallery_.scalar_type(), "query and gallery must have one dtype");
  const Tensor query = torch::stable::contiguous(query_), gallery = torch::stable::contiguous(gallery_), shift = torch::stable::contiguous(shift_);
  const RelevantInput relevant(query_class, order, starts, query, gallery);
  Tensor result = torch::stable::empty({kCounts, relevant.total()}, ScalarType::Int);
  with_element_type(query.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    std::vector<int64_t> which(query.size(0));
    std::iota(which.begin(), which.end(), int64_t{0});
    const auto run = [&](auto accumulated, const OptionalTensor& ready) {
      using A = decltype(accumulated);
      const StripKernel<A>& kernel = strip_kernel<A>(best_isa());
      const Tensor panels = ready ? *ready : packed_as<S, A>(gallery, relevant.items(), shift, scale, cosine);
      STD_TORCH_CHECK(panels.numel() == PackedGallery<A>::elements(kernel, gallery.size(0), gallery.size(1)) &&
                          panels.scalar_type() == accumulate_type(std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float),
                      "packed must be what pack_gallery made of this gallery");
      const PackedGallery<A> memory(static_cast<A*>(const_cast<void*>(panels.const_data_ptr())), kernel, gallery.size(0), gallery.size(1));
      RankRelevant<S, A> work(which, rows<S>(query), ids(relevant.query_class), relevant.offsets(), memory, gallery.size(0),
                              {relevant.items(), ids(relevant.starts)}, frame_of<A>(shift, scale), cosine, &parallel_for,
                              static_cast<int>(torch::stable::get_num_threads()), best_isa());
      work.run(static_cast<int32_t*>(result.mutable_data_ptr()));
      return work.doubtful();
    };
    which = run(T{}, packed);
    if (std::is_same_v<T, float> && !which.empty()) run(double{}, OptionalTensor());
  });
  return result;
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) {
  m.impl("pack_gallery", TORCH_BOX(&zsml::cpu::pack_gallery));
  m.impl("rank_relevant", TORCH_BOX(&zsml::cpu::rank_relevant));
}
