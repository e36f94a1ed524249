// Host-side help for CUDA registrations: the stream torch is on, scratch tensors, launch checks.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../common.h"

namespace zsml::cuda {

inline cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline Tensor scratch(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape, ScalarType type) {
  return torch::stable::empty(shape, type, std::nullopt, like.device());
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <class T>
const T* input(const Tensor& t) {  // never asks torch for a copy of its own, as writing might
  return static_cast<const T*>(t.const_data_ptr());
}

inline int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace zsml::cuda
