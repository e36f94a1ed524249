// The arguments of the ops on packed codes as either device receives them, checked once for both.
#pragma once

#include "common.h"
#include "hamming.h"

namespace zsml {

// codes [rows, W], uint8
inline void check_codes(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Byte, name, " must be uint8");
  STD_TORCH_CHECK(t.dim() == 2, name, " must be [rows, bytes], got ", t.dim(), " dimensions");
  STD_TORCH_CHECK(t.size(0) > 0 && t.size(1) > 0, name, " must have at least one row and one byte per row");
}

struct HammingInput {
  Tensor q, g;  // [Q, W], [N, W]; contiguous

  HammingInput(const Tensor& q_, const Tensor& g_) {
    check_codes(q_, "q");
    check_codes(g_, "g");
    STD_TORCH_CHECK(q_.size(1) == g_.size(1), "q and g must be codes of one width, got ", q_.size(1), " and ", g_.size(1), " bytes per row");
    STD_TORCH_CHECK(q_.device() == g_.device(), "q and g must be on one device");
    q = torch::stable::contiguous(q_);
    g = torch::stable::contiguous(g_);
  }
  int64_t queries() const { return q.size(0); }
  int64_t codes() const { return g.size(0); }
  int64_t width() const { return q.size(1); }
};

inline void check_k(int64_t k, int64_t codes) {
  STD_TORCH_CHECK(0 <= k && k <= codes, "k=", k, " is out of range: the gallery g has ", codes, " codes");
}

inline void check_rankable(int64_t codes) { STD_TORCH_CHECK(codes < (int64_t{1} << 31), "g has ", codes, " codes; int32 indices end at 2^31"); }

}  // namespace zsml
