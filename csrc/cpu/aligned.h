// Scratch memory for vector code.
#pragma once

#include <algorithm>
#include <cstdint>
#include <new>

namespace zsml::cpu {

// 64-byte aligned scratch memory that frees itself.
template <class T>
struct Aligned {
  explicit Aligned(int64_t count) : memory(new (std::align_val_t(64)) T[std::max<int64_t>(count, 1)]) {}
  ~Aligned() { operator delete[](memory, std::align_val_t(64)); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  T* memory;
};

}  // namespace zsml::cpu
