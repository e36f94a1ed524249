// What the CPU registrations share: torch's threads and tensors in the core's terms.
#pragma once

#include "../common.h"
#include "pack.h"
#include "parallel.h"

namespace zsml::cpu {

inline void parallel_for(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(begin, end, grain, body);
}

template <class S>
Rows<S> rows(const Tensor& t) {
  return {static_cast<const S*>(t.const_data_ptr()), t.size(0), t.size(1)};
}

inline const int64_t* ids(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }

}  // namespace zsml::cpu
