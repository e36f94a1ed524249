// The last step of the large searches: looks again at a doubtful winner and measures what is chosen exactly.
#pragma once

#include "warp.cuh"

namespace zsml::cuda {

// What a search found for one anchor and role: the hardest squared distance in the frame, and who may have it, -1 for
// nobody. Two where the search could not tell which of them is the harder.
template <class T>
struct Found {
  T squared;
  int64_t index[2];
};

// One block per anchor, one warp per role. Of winners it asks found(role, i), and norm(i): the anchor's squared length in the frame.
template <class S, class T, class Winners>
__global__ void __launch_bounds__(kRoles* kWarp)
    finish_anchors(const S* __restrict__ x, const uint8_t* __restrict__ finite, const int64_t* __restrict__ labels,
                   const int64_t* __restrict__ modality, const S* __restrict__ refs, const uint8_t* __restrict__ ref_finite,
                   const int64_t* __restrict__ ref_labels, const int64_t* __restrict__ ref_modality, const int64_t* __restrict__ exclude, bool self,
                   int64_t anchors, int64_t candidates, int64_t depth, const Winners winners, T* __restrict__ distance, int64_t* __restrict__ index) {
  const int64_t i = blockIdx.x;
  const int role = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t at = role * anchors + i;
  if (!finite[i]) {
    if (lane == 0) distance[at] = static_cast<T>(NAN), index[at] = -1;
    return;
  }
  const Found<T> found = winners.found(role, i);
  const S* anchor = x + i * depth;
  T best = worst<T>(role);
  int64_t where = -1;
  const auto measure = [&](int64_t j) {
    const T measured = warp_distance<T>(anchor, refs + j * depth, depth);
    if (beats(role, measured, j, best, where)) best = measured, where = j;
  };
  // Small against |a|^2: cancellation. Small against the frame, whose scale one outlier may have set: underflow.
  const T norm = winners.norm(i);
  if (found.index[0] >= 0 && found.squared < static_cast<T>(kTrustedFraction) * norm + kVanishing<T>) {
    const int64_t skipped = self ? i : exclude ? exclude[i] : -1;
    const int64_t own_label = labels[i], own_modality = modality[i];
    for (int64_t j = 0; j < candidates; ++j)
      if (j != skipped && ref_finite[j] && role_of(ref_labels[j] == own_label, ref_modality[j] == own_modality) == role) measure(j);
  } else {
#pragma unroll 1
    for (int which = 0; which < 2; ++which)
      if (const int64_t j = which ? found.index[1] : found.index[0]; j >= 0) measure(j);
  }
  if (lane == 0) distance[at] = best, index[at] = where;
}

}  // namespace zsml::cuda
