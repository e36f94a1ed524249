// The arguments of hardest_pairs as either device receives them, checked once for both.
#pragma once

#include "common.h"
#include "hardest_pairs.h"

namespace zsml {

struct HardestPairsInput {
  Tensor x, labels, modality;             // [B, D], [B], [B]; contiguous
  Tensor refs, ref_labels, ref_modality;  // [M, D], [M], [M]; the same tensors as above where no refs were given
  OptionalTensor exclude;                 // [B]
  bool self;                              // no refs: an anchor is never its own partner

  HardestPairsInput(const Tensor& x_, const Tensor& labels_, const Tensor& modality_, const OptionalTensor& refs_, const OptionalTensor& ref_labels_,
                    const OptionalTensor& ref_modality_, const OptionalTensor& exclude_)
      : self(!refs_) {
    check_embeddings(x_, "x");
    STD_TORCH_CHECK(x_.size(0) > 0, "x must have at least one row");
    STD_TORCH_CHECK(x_.size(1) > 0, "x must have at least one column");
    check_ids(labels_, "labels", x_.size(0), x_);
    check_ids(modality_, "modality", x_.size(0), x_);
    STD_TORCH_CHECK(self == !ref_labels_ && self == !ref_modality_, "refs, ref_labels and ref_modality go together");
    x = torch::stable::contiguous(x_);
    labels = torch::stable::contiguous(labels_);
    modality = torch::stable::contiguous(modality_);
    refs = x, ref_labels = labels, ref_modality = modality;
    if (!self) {
      check_embeddings(*refs_, "refs");
      STD_TORCH_CHECK(refs_->size(1) == x.size(1), "refs must have the width of x, ", x.size(1), ", got ", refs_->size(1));
      STD_TORCH_CHECK(refs_->scalar_type() == x.scalar_type(), "refs must have the dtype of x");
      STD_TORCH_CHECK(refs_->device() == x.device(), "refs must be on the device of x");
      check_ids(*ref_labels_, "ref_labels", refs_->size(0), x);
      check_ids(*ref_modality_, "ref_modality", refs_->size(0), x);
      refs = torch::stable::contiguous(*refs_);
      ref_labels = torch::stable::contiguous(*ref_labels_);
      ref_modality = torch::stable::contiguous(*ref_modality_);
    }
    if (exclude_) {
      STD_TORCH_CHECK(!self, "exclude names rows of refs; without refs an anchor already skips itself");
      check_ids(*exclude_, "exclude", x.size(0), x);
      exclude = torch::stable::contiguous(*exclude_);
    }
  }
};

// Checked input of the gradient; grad and distance [4, B] in the accumulation type, index [4, B] int64.
struct HardestPairsGradientInput {
  Tensor grad, x, refs, distance, index;
  bool self;

  HardestPairsGradientInput(const Tensor& grad_, const Tensor& x_, const OptionalTensor& refs_, const Tensor& distance_, const Tensor& index_)
      : self(!refs_) {
    check_embeddings(x_, "x");
    x = torch::stable::contiguous(x_);
    refs = self ? x : torch::stable::contiguous(*refs_);
    STD_TORCH_CHECK(refs.dim() == 2 && refs.size(1) == x.size(1) && refs.scalar_type() == x.scalar_type(), "refs must match x");
    for (const Tensor* t : {&grad_, &distance_, &index_})
      STD_TORCH_CHECK(t->dim() == 2 && t->size(0) == kRoles && t->size(1) == x.size(0), "grad, distance and index must be [4, ", x.size(0), "]");
    STD_TORCH_CHECK(grad_.scalar_type() == accumulate_type(x.scalar_type()) && distance_.scalar_type() == grad_.scalar_type(),
                    "grad and distance must have the dtype of the distances");
    STD_TORCH_CHECK(index_.scalar_type() == ScalarType::Long, "index must be int64");
    grad = torch::stable::contiguous(grad_);
    distance = torch::stable::contiguous(distance_);
    index = torch::stable::contiguous(index_);
  }
};

// For tensors in the CPU's memory: every index is a row of refs, or -1.
inline void check_partners(const HardestPairsGradientInput& in) {
  const auto* index = static_cast<const int64_t*>(in.index.const_data_ptr());
  for (int64_t at = 0; at < in.index.numel(); ++at)
    STD_TORCH_CHECK(index[at] < in.refs.size(0), "index must hold rows of refs, below ", in.refs.size(0), ", or -1, got ", index[at]);
}

}  // namespace zsml
