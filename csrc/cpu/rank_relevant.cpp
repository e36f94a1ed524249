// CPU registration of rank_relevant; the work is in rank_relevant_search.h.
#include <numeric>
#include <type_traits>

#include "../rank_relevant_contract.h"
#include "rank_relevant_search.h"

namespace zsml::cpu {
namespace {

void parallel_for(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(begin, end, grain, body);
}

}  // namespace

Tensor rank_relevant(const Tensor& query_, const Tensor& query_class, const Tensor& gallery_, const Tensor& order, const Tensor& starts,
                     const Tensor& shift_, double scale, bool cosine) {
  check_embeddings(query_, "query");
  check_embeddings(gallery_, "gallery");
  STD_TORCH_CHECK(query_.size(1) == gallery_.size(1) && query_.size(1) > 0, "query and gallery must have one width");
  STD_TORCH_CHECK(query_.scalar_type() == gallery_.scalar_type(), "query and gallery must have one dtype");
  STD_TORCH_CHECK(shift_.scalar_type() == ScalarType::Double && shift_.dim() == 1 && shift_.size(0) == query_.size(1), "shift must be float64 [D]");
  const Tensor query = torch::stable::contiguous(query_), gallery = torch::stable::contiguous(gallery_), shift = torch::stable::contiguous(shift_);
  const RelevantInput relevant(query_class, order, starts, query, gallery);
  Tensor result = torch::stable::empty({kCounts, relevant.total()}, ScalarType::Int);
  with_element_type(query.scalar_type(), [&](auto element) {
    using S = decltype(element);
    using T = typename Accumulate<S>::type;
    std::vector<int64_t> which(query.size(0));
    std::iota(which.begin(), which.end(), int64_t{0});
    const auto run = [&](auto accumulated) {
      using A = decltype(accumulated);
      const auto* by = static_cast<const double*>(shift.const_data_ptr());
      RankRelevant<S, A> work(which, {static_cast<const S*>(query.const_data_ptr()), query.size(0), query.size(1)},
                              static_cast<const int64_t*>(relevant.query_class.const_data_ptr()), relevant.offsets(),
                              {static_cast<const S*>(gallery.const_data_ptr()), gallery.size(0), gallery.size(1)},
                              {relevant.items(), static_cast<const int64_t*>(relevant.starts.const_data_ptr())},
                              Frame<A>{static_cast<A>(scale), std::vector<A>(by, by + shift.size(0))}, cosine, &parallel_for,
                              static_cast<int>(torch::stable::get_num_threads()), best_isa());
      work.run(static_cast<int32_t*>(result.mutable_data_ptr()));
      return work.doubtful();
    };
    which = run(T{});
    if (std::is_same_v<T, float> && !which.empty()) run(double{});
  });
  return result;
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) { m.impl("rank_relevant", TORCH_BOX(&zsml::cpu::rank_relevant)); }
