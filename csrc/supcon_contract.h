// The arguments of supcon and its gradient as either device receives them, checked once for both.
#pragma once

#include "hardest_pairs_contract.h"
#include "pair_softmax.h"

namespace zsml {

// Anchors and candidates come as to hardest_pairs.
struct SupconInput : HardestPairsInput {
  double temperature;
  int pairs;
  bool per_pair;

  SupconInput(const Tensor& x_, const Tensor& labels_, const Tensor& modality_, const OptionalTensor& refs_, const OptionalTensor& ref_labels_,
              const OptionalTensor& ref_modality_, const OptionalTensor& exclude_, double temperature_, int64_t pairs_, bool per_pair_)
      : HardestPairsInput(x_, labels_, modality_, refs_, ref_labels_, ref_modality_, exclude_),
        temperature(temperature_),
        pairs(static_cast<int>(pairs_)),
        per_pair(per_pair_) {
    STD_TORCH_CHECK(temperature > 0 && std::isfinite(temperature), "temperature must be a positive number, got ", temperature);
    STD_TORCH_CHECK(0 <= pairs_ && pairs_ < kPairs, "pairs must be 0 (all), 1 (within) or 2 (cross), got ", pairs_);
  }
};

struct SupconGradientInput : SupconInput {
  Tensor grad, lse, pull;  // [B] in the accumulation type
  Tensor positives;        // [B] int64

  SupconGradientInput(const Tensor& grad_, SupconInput input, const Tensor& lse_, const Tensor& positives_, const Tensor& pull_)
      : SupconInput(std::move(input)) {
    for (const Tensor* t : {&grad_, &lse_, &pull_}) {
      STD_TORCH_CHECK(t->dim() == 1 && t->size(0) == x.size(0), "grad, lse and pull must be [", x.size(0), "]");
      STD_TORCH_CHECK(t->scalar_type() == accumulate_type(x.scalar_type()), "grad, lse and pull must have the dtype of the loss");
      STD_TORCH_CHECK(t->device() == x.device(), "grad, lse and pull must be on the device of x");
    }
    check_ids(positives_, "positives", x.size(0), x);
    grad = torch::stable::contiguous(grad_);
    lse = torch::stable::contiguous(lse_);
    pull = torch::stable::contiguous(pull_);
    positives = torch::stable::contiguous(positives_);
  }
};

}  // namespace zsml
