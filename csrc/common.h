// What every op's registration needs: checks that name the argument, and the switch over element types.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <optional>

namespace zsml {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half || type == ScalarType::BFloat16;
}

// Half precision is accumulated, and returned, in float.
inline ScalarType accumulate_type(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

// embeddings [rows, D], floating point
inline void check_embeddings(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 2, name, " must be [rows, D], got ", t.dim(), " dimensions");
  STD_TORCH_CHECK(is_floating(t.scalar_type()), name, " must be float16, bfloat16, float32 or float64");
}

// ids [rows], int64, on the device of the embeddings they belong to
inline void check_ids(const Tensor& t, const char* name, int64_t rows, const Tensor& like) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == rows, name, " must be [", rows, "], one id per row");
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long, name, " must be int64");
  STD_TORCH_CHECK(t.device() == like.device(), name, " must be on the device of the embeddings");
}

template <class S>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};

// Calls body with a value whose type is the element type (only its type matters).
template <class Body>
void with_element_type(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Float: return body(float{});
    case ScalarType::Double: return body(double{});
    case ScalarType::Half: return body(torch::headeronly::Half{});
    case ScalarType::BFloat16: return body(torch::headeronly::BFloat16{});
    default: STD_TORCH_CHECK(false, "embeddings must be float16, bfloat16, float32 or float64");
  }
}

}  // namespace zsml
