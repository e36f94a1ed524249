// The emulator must catch what it claims to catch: kernels with one well-known mistake each, and one without.
#include "cuda_emulator.h"

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <set>

namespace kernels {

EMULATOR_DYNAMIC_SHARED(unsigned char, room)

constexpr unsigned kThreads = 64;

__global__ void sum(const int* in, int* out) {
  __shared__ int partial[kThreads];
  partial[threadIdx.x] = in[blockIdx.x * kThreads + threadIdx.x];
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}

__global__ void forgets_barrier(int* out) {
  __shared__ int value[kThreads];
  value[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
  out[threadIdx.x] = value[(threadIdx.x + 40) % kThreads];
}

__global__ void forgets_warp_barrier(int* out) {
  __shared__ int value[kThreads];
  value[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
  out[threadIdx.x] = value[threadIdx.x ^ 9];
}

__global__ void reverses_warps(int* out) {  // again and again, through shared memory
  __shared__ int value[kThreads];
  value[threadIdx.x] = static_cast<int>(threadIdx.x);
  for (int turn = 0; turn < 5; ++turn) {
    __syncwarp();
    const int other = value[threadIdx.x ^ 31];
    __syncwarp();
    value[threadIdx.x] = other;
  }
  out[threadIdx.x] = value[threadIdx.x];
}

__global__ void exchanges(int* out) {
  const int lane = threadIdx.x % 32;
  const unsigned equals = __match_any_sync(0xffffffffu, lane % 3 - 1);
  const bool right = equals == 0x49249249u << lane % 3 && __shfl_up_sync(0xffffffffu, lane, 3) == (lane < 3 ? lane : lane - 3) &&
                     __shfl_sync(0xffffffffu, 7 * lane, 31) == 217 && __shfl_xor_sync(0xffffffffu, lane, 5) == (lane ^ 5) &&
                     __ballot_sync(0xffffffffu, lane > 30) == 1u << 31;
  atomicAdd(out, right ? 1 : 0);
}

__global__ void reads_unwritten(int* out) {
  __shared__ int value[kThreads];
  if (threadIdx.x % 2) value[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = value[threadIdx.x];
}

__global__ void depends_on_block_order(int* out) {
  if (threadIdx.x == 0) out[0] = static_cast<int>(blockIdx.x);
}

__global__ void half_a_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void two_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void half_a_shuffle(int* out) {
  if (threadIdx.x % 2) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}

__global__ void leaves_before_ballot(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = static_cast<int>(__ballot_sync(0xffffffffu, threadIdx.x % 2 == 0));
}

__global__ void writes_beyond() {
  extern __shared__ unsigned char room[];
  room[threadIdx.x] = static_cast<unsigned char>(threadIdx.x + 1);
}

}  // namespace kernels

namespace {

using namespace kernels;

uint64_t seed = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "the emulator fails: %s\n", what);
  std::exit(1);
}

template <class... Arguments>
std::string violation(void (*kernel)(Arguments...), dim3 grid, size_t shared, Arguments... arguments) {
  try {
    emulator::launch(seed, kernel, grid, kThreads, shared, arguments...);
  } catch (const emulator::Violation& caught) {
    return caught.what();
  }
  return "";
}

// How many different results the seeds give.
template <class Launch>
size_t outcomes(const Launch& launch) {
  std::set<std::vector<int>> seen;
  for (seed = 0; seed < 8; ++seed) {
    std::vector<int> out(kThreads, -1);
    launch(out.data());
    seen.insert(out);
  }
  return seen.size();
}

}  // namespace

int main() {
  std::vector<int> in(5 * kThreads), out(kThreads);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i * i % 97);
  for (seed = 0; seed < 8; ++seed) {
    emulator::launch(seed, sum, 5, kThreads, 0, in.data(), out.data());
    for (int b = 0; b < 5; ++b) require(out[b] == std::accumulate(&in[b * kThreads], &in[b * kThreads] + kThreads, 0), "a right kernel is right");
    emulator::launch(seed, reverses_warps, 1, kThreads, 0, out.data());
    for (unsigned t = 0; t < kThreads; ++t) require(out[t] == static_cast<int>(t ^ 31), "what was written before a warp's barrier is read after it");
    out[0] = 0;
    emulator::launch(seed, exchanges, 3, kThreads, 0, out.data());
    require(out[0] == 3 * kThreads, "shuffles, votes and matches");
    require(violation(half_a_barrier, 1, 0).find("32 have returned; 32 wait at the barrier") != std::string::npos, "a barrier half the block misses");
    require(!violation(two_barriers, 1, 0).empty(), "two barriers for one");
    require(!violation(half_a_shuffle, 1, 0, out.data()).empty(), "a shuffle half the warp misses");
    require(!violation(leaves_before_ballot, 1, 0, out.data()).empty(), "a ballot a lane misses");
    require(!violation(writes_beyond, 1, kThreads - 1).empty(), "a write beyond the dynamic shared memory");
    require(violation(writes_beyond, 1, kThreads).empty(), "dynamic shared memory is as large as asked for");
    require(!violation(writes_beyond, 0, kThreads).empty(), "an empty grid");
  }
#ifndef __SANITIZE_THREAD__  // it would stop here, as it should
  require(outcomes([](int* out) { emulator::launch(seed, forgets_barrier, 1, kThreads, 0, out); }) > 1, "a race shows");
  require(outcomes([](int* out) { emulator::launch(seed, forgets_warp_barrier, 1, kThreads, 0, out); }) > 1, "a race within a warp shows");
#endif
  require(outcomes([](int* out) { emulator::launch(seed, reads_unwritten, 1, kThreads, 0, out); }) > 1, "a read of unwritten memory shows");
  require(outcomes([](int* out) { emulator::launch(seed, depends_on_block_order, 9, kThreads, 0, out); }) > 1, "a dependence between blocks shows");
  std::puts("the emulator catches what it should");
}
