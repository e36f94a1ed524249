// The arguments of margin_softmax and its gradient as either device receives them, checked once for both.
#pragma once

#include "common.h"
#include "pair_softmax.h"

namespace zsml {

struct MarginSoftmaxInput {
  Tensor x, centers, labels;  // [B, D], [C, D], [B]; contiguous
  int measure;
  double scale;

  MarginSoftmaxInput(const Tensor& x_, const Tensor& centers_, const Tensor& labels_, int64_t measure_, double scale_)
      : measure(static_cast<int>(measure_)), scale(scale_) {
    check_embeddings(x_, "x");
    STD_TORCH_CHECK(x_.size(0) > 0, "x must have at least one row");
    STD_TORCH_CHECK(x_.size(1) > 0, "x must have at least one column");
    check_embeddings(centers_, "centers");
    STD_TORCH_CHECK(centers_.size(0) > 0, "centers must have at least one row");
    STD_TORCH_CHECK(centers_.size(1) == x_.size(1), "centers must have the width of x, ", x_.size(1), ", got ", centers_.size(1));
    STD_TORCH_CHECK(centers_.scalar_type() == x_.scalar_type(), "centers must have the dtype of x");
    STD_TORCH_CHECK(centers_.device() == x_.device(), "centers must be on the device of x");
    check_ids(labels_, "labels", x_.size(0), x_);
    STD_TORCH_CHECK(0 <= measure_ && measure_ < kMeasures, "measure must be 0 (inner), 1 (squared distance) or 2 (distance), got ", measure_);
    STD_TORCH_CHECK(scale > 0 && std::isfinite(scale), "scale must be a positive number, got ", scale);
    x = torch::stable::contiguous(x_);
    centers = torch::stable::contiguous(centers_);
    labels = torch::stable::contiguous(labels_);
    if (x.device().type() != torch::headeronly::DeviceType::CPU) return;  // reading them would be a wait for the device
    const auto* label = static_cast<const int64_t*>(labels.const_data_ptr());
    for (int64_t i = 0; i < labels.size(0); ++i)
      STD_TORCH_CHECK(0 <= label[i] && label[i] < centers.size(0), "labels must be rows of centers, 0 to ", centers.size(0) - 1, ", got ", label[i]);
  }
};

struct MarginSoftmaxGradientInput : MarginSoftmaxInput {
  Tensor grad_others, grad_target, others, target;  // [B] in the accumulation type

  MarginSoftmaxGradientInput(const Tensor& grad_others_, const Tensor& grad_target_, MarginSoftmaxInput input, const Tensor& others_,
                             const Tensor& target_)
      : MarginSoftmaxInput(std::move(input)) {
    for (const Tensor* t : {&grad_others_, &grad_target_, &others_, &target_}) {
      STD_TORCH_CHECK(t->dim() == 1 && t->size(0) == x.size(0), "others, target and their gradients must be [", x.size(0), "]");
      STD_TORCH_CHECK(t->scalar_type() == accumulate_type(x.scalar_type()), "others, target and their gradients must have the dtype of others");
      STD_TORCH_CHECK(t->device() == x.device(), "others, target and their gradients must be on the device of x");
    }
    grad_others = torch::stable::contiguous(grad_others_);
    grad_target = torch::stable::contiguous(grad_target_);
    others = torch::stable::contiguous(others_);
    target = torch::stable::contiguous(target_);
  }
};

}  // namespace zsml
