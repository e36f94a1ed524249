// The class lists of rank_relevant and hamming_rank_relevant, checked once for both and for either device.
#pragma once

#include <vector>

#include "common.h"
#include "rank_relevant.h"

namespace zsml {

// Which gallery rows are relevant for which query. The lists may live on any device for the checks of shape and type; `host` says
// whether their values can be read here.
struct RelevantInput {
  Tensor query_class, order, starts;  // [Q], [N], [C + 1] int64, contiguous

  RelevantInput(const Tensor& query_class_, const Tensor& order_, const Tensor& starts_, const Tensor& queries, const Tensor& gallery) {
    check_ids(query_class_, "query_class", queries.size(0), queries);
    check_ids(order_, "order", gallery.size(0), queries);
    STD_TORCH_CHECK(gallery.size(0) < (int64_t{1} << 31), "the gallery has ", gallery.size(0), " items; int32 counts end at 2^31");
    STD_TORCH_CHECK(starts_.dim() == 1 && starts_.size(0) > 1 && starts_.scalar_type() == ScalarType::Long, "starts must be int64 [C + 1]");
    query_class = torch::stable::contiguous(query_class_);
    order = torch::stable::contiguous(order_);
    starts = torch::stable::contiguous(starts_);
    if (queries.device().type() != torch::headeronly::DeviceType::CPU) return;
    offset_.assign(1, 0);
    const int64_t classes = starts.size(0) - 1, size = order.size(0);
    for (int64_t c = 0; c < classes; ++c)
      STD_TORCH_CHECK(0 <= start(c) && start(c) <= start(c + 1) && start(c + 1) <= size, "starts must ascend from 0 to N=", size);
    for (int64_t j = 0; j < size; ++j) STD_TORCH_CHECK(0 <= items()[j] && items()[j] < size, "order must hold rows of the gallery, got ", items()[j]);
    for (int64_t i = 0; i < query_class.size(0); ++i) {
      STD_TORCH_CHECK(0 <= class_of(i) && class_of(i) < classes, "query_class must be 0 to ", classes - 1, ", got ", class_of(i));
      offset_.push_back(offset_.back() + count(i));
    }
  }

  // For lists on the CPU:
  int64_t class_of(int64_t query) const { return static_cast<const int64_t*>(query_class.const_data_ptr())[query]; }
  int64_t start(int64_t c) const { return static_cast<const int64_t*>(starts.const_data_ptr())[c]; }
  const int64_t* items() const { return static_cast<const int64_t*>(order.const_data_ptr()); }
  const int64_t* items(int64_t query) const { return items() + start(class_of(query)); }
  int64_t count(int64_t query) const { return start(class_of(query) + 1) - start(class_of(query)); }
  int64_t offset(int64_t query) const { return offset_[query]; }  // of the query's first result
  const int64_t* offsets() const { return offset_.data(); }       // [Q + 1], last the total
  int64_t total() const { return offset_.back(); }

 private:
  std::vector<int64_t> offset_;  // [Q + 1]
};

}  // namespace zsml
