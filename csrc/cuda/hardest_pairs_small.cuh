// hardest_pairs for small batches: one launch, one block per anchor, every pair measured by direct differences. What counts
// there is latency, and sum_k (a_k - b_k)^2 needs no frame, no second look and no intermediate in global memory: every row is
// read once.
#pragma once

#include "warp.cuh"

namespace zsml::cuda {

constexpr int kSmallThreads = 256;

// Two blocks per multiprocessor suffice for a batch this small; asked for more, the compiler spills the float64 variant.
template <class S, class T>
__global__ void __launch_bounds__(kSmallThreads, 2) hardest_pairs_small(const S* __restrict__ x,                   // [B, D]
                                                                        const int64_t* __restrict__ labels,        // [B]
                                                                        const int64_t* __restrict__ modality,      // [B]
                                                                        const S* __restrict__ refs,                // [M, D]
                                                                        const int64_t* __restrict__ ref_labels,    // [M]
                                                                        const int64_t* __restrict__ ref_modality,  // [M]
                                                                        const int64_t* __restrict__ exclude,       // [B] or null
                                                                        bool self,  // anchor i is row i of refs and skips itself
                                                                        int64_t anchors, int64_t candidates, int64_t depth,
                                                                        T* __restrict__ distance,       // [4, B]
                                                                        int64_t* __restrict__ index) {  // [4, B]
  constexpr int warps = kSmallThreads / kWarp;
  __shared__ T warp_value[kRoles][warps];
  __shared__ int64_t warp_index[kRoles][warps];
  const int64_t i = blockIdx.x;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const S* anchor = x + i * depth;

  const bool usable = warp_largest<T>(anchor, depth) >= T(0);
  T best[kRoles];
  int64_t where[kRoles];
  for (int role = 0; role < kRoles; ++role) best[role] = worst<T>(role), where[role] = -1;
  const int64_t skipped = self ? i : exclude ? exclude[i] : -1;
  for (int64_t j = warp; j < candidates; j += warps) {  // ascending, so a strict comparison keeps the lowest index
    if (j == skipped) continue;
    const T measured = warp_distance<T>(anchor, refs + j * depth, depth);
    // Only what is not a finite distance may come from a row with a NaN or infinity; or the two are merely too far apart for T.
    if (!(measured < infinity<T>()) && warp_largest<T>(refs + j * depth, depth) < T(0)) continue;
    const int own_role = role_of(ref_labels[j] == labels[i], ref_modality[j] == modality[i]);
#pragma unroll
    for (int role = 0; role < kRoles; ++role)
      if (role == own_role && beats(role, measured, j, best[role], where[role])) best[role] = measured, where[role] = j;
  }
  if (lane == 0)
    for (int role = 0; role < kRoles; ++role) warp_value[role][warp] = best[role], warp_index[role][warp] = where[role];
  __syncthreads();

  if (threadIdx.x < kRoles) {
    const int role = threadIdx.x;
    T value = worst<T>(role);
    int64_t winner = -1;
    for (int w = 0; w < warps; ++w)
      if (beats(role, warp_value[role][w], warp_index[role][w], value, winner)) value = warp_value[role][w], winner = warp_index[role][w];
    distance[role * anchors + i] = usable ? value : static_cast<T>(NAN);
    index[role * anchors + i] = usable ? winner : -1;
  }
}

}  // namespace zsml::cuda
