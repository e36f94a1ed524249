// What every file of launches needs: memory as it comes.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace zsml::cuda::test {

// Whatever was there before.
template <class T>
std::vector<T> scratch(int64_t count, uint64_t seed) {
  std::vector<T> memory(count);
  if (count) std::memset(static_cast<void*>(memory.data()), seed % 2 ? 0xff : 0x5a, count * sizeof(T));
  return memory;
}

inline int64_t ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

}  // namespace zsml::cuda::test
