// The instructions that feed and drive the tensor cores (compute capability 8.0 and above), one small function each.
//
// Seen as 32-bit words, the fragments of all three products are the same: with g = lane / 4 and t = lane % 4, lane holds of
//   a  [16 rows,    8 words]   words (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)
//   b  [ 8 columns, 8 words]   words (g, t), (g, t + 4)
//   c  [16 rows, 8 columns]    (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1), float
// where a word is two consecutive halves (the first one low) or one tf32 number. tests/native/cuda_mma.h does the same on a CPU.
#pragma once

#include <cstdint>

namespace zsml::cuda {

struct alignas(16) Chunk {  // what one asynchronous copy moves
  uint32_t word[4];
};

}  // namespace zsml::cuda

#ifdef __CUDACC__
namespace zsml::cuda {

// c += a b^T on halves: 16 coordinates at a time, products exact, summed in float (the hardware truncates).
__device__ __forceinline__ void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += a b^T on tf32: 8 coordinates at a time; the words must have been rounded to tf32.
__device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 4 matrices of words out of shared memory: lane 8 m + i names row i of matrix m, 16 bytes; every lane then holds word
// (lane / 4, lane % 4) of each matrix.
__device__ __forceinline__ void load_matrices(uint32_t (&word)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// Starts a copy from global to shared memory; both addresses are multiples of 16. Copies are waited for in groups.
__device__ __forceinline__ void copy_async(void* shared, const Chunk* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global) : "memory");
}

// The copies this thread has started since the last call make a group.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of this thread's groups are still under way.
template <int pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace zsml::cuda
#endif
