// Runs CUDA kernels on the CPU, one block at a time, from the very source that nvcc compiles. For tests: slow, and strict.
//
// The seed decides which thread goes on at each barrier and warp collective, the order of the blocks, and what shared memory holds
// before it is written: a result that changes with it tells of a race, or of a read of memory that nobody wrote. What CUDA leaves
// undefined or would hang on throws Violation: a barrier some threads of the block never reach, or reach elsewhere; a collective some
// lanes of the warp miss; a write past the dynamic shared memory; an invalid launch. More comes to light under the sanitizers:
// races exactly with -fsanitize=thread, stray reads and writes with -fsanitize=address,undefined.
//
// Include it before the kernels; compile with -fno-extern-tls-init (see __shared__ below). Not emulated: partial warp masks, several streams, the
// order in which one thread sees another's writes between two barriers.
#pragma once

#include <link.h>
#include <math.h>

#include <array>
#include <numeric>
#include <utility>

#include "cuda_collectives.h"

namespace emulator {

constexpr size_t kDynamicShared = 48 << 10;
inline std::vector<unsigned char*> dynamic_shared;  // every array EMULATOR_DYNAMIC_SHARED declared

// The static __shared__ arrays of all kernels: the thread-local memory of this program (see __shared__ below).
inline std::pair<void*, size_t> static_shared() {
  std::pair<void*, size_t> found{nullptr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {  // the first object is the program itself
        for (int i = 0; i < info->dlpi_phnum; ++i)
          if (info->dlpi_phdr[i].p_type == PT_TLS) *static_cast<decltype(found)*>(result) = {info->dlpi_tls_data, info->dlpi_phdr[i].p_memsz};
        return 1;
      },
      &found);
  return found;
}

// kernel<<<grid, threads, shared>>>(arguments...)
template <class... Parameters, class... Arguments>
void launch(uint64_t seed, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared, Arguments... arguments) {
  if (!grid.count() || !threads.count() || threads.count() > 1024 || grid.y > 65535 || grid.z > 65535 || shared > kDynamicShared)
    throw Violation("invalid launch configuration");
  const Quiet quiet;
  static const std::pair<void*, size_t> memory = static_shared();
  const unsigned char poison = std::array{0xff, 0x5a, 0x81, 0x00}[seed / 2 % 4];
  const std::function<void()> body = [=] { kernel(arguments...); };
  gridDim = grid, blockDim = threads;
  std::vector<unsigned> order(grid.count());
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::minstd_rand(static_cast<unsigned>(seed)));
  for (unsigned b : order) {
    std::memset(memory.first, poison, memory.second);
    blockIdx = grid.at(b), block.seed = seed;
    block.run(body);
    for (const unsigned char* array : dynamic_shared)
      if (std::any_of(array + shared, array + kDynamicShared, [&](unsigned char c) { return c != poison; }))
        throw Violation("a kernel wrote beyond the " + std::to_string(shared) + " bytes of its dynamic shared memory");
  }
}

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace emulator

template <class T>
T atomicMax(T* at, T value) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
T atomicMin(T* at, T value) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
T atomicAdd(T* at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline int __float_as_int(float value) { return emulator::same_bits<int>(value); }
inline float __int_as_float(int value) { return emulator::same_bits<float>(value); }
inline long long __double_as_longlong(double value) { return emulator::same_bits<long long>(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }

// A thread-local variable in a function is static and may also be extern: what __shared__ needs, there being one CPU thread. GCC must be
// told that nobody initialises the extern ones.
#define __shared__ thread_local
#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() emulator::block.barrier(EMULATOR_HERE)

// What `extern __shared__ type name[]` in a kernel refers to; to be put into the kernel's namespace, before it.
#define EMULATOR_DYNAMIC_SHARED(type, name)                               \
  inline thread_local type name[emulator::kDynamicShared / sizeof(type)]; \
  inline const bool name##_is_known = (emulator::dynamic_shared.push_back(reinterpret_cast<unsigned char*>(name)), true);
