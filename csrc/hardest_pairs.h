// hardest_pairs: for every anchor, the farthest sample of its own class and the nearest sample of another class, once among
// the samples of its own modality ("within") and once among those of all others ("cross").
//
//   d(i, j)            = sqrt( sum_k (x[i, k] - refs[j, k])^2 )
//   within_pos[i]      = argmax_j d(i, j)   over j with label[j] == label[i], modality[j] == modality[i], j != exclude[i]
//   within_neg[i]      = argmin_j d(i, j)   over j with label[j] != label[i], modality[j] == modality[i]
//   cross_pos, cross_neg                     the same with modality[j] != modality[i]
//
//   x        [B, D]  float16 | bfloat16 | float32 | float64        refs  [M, D]  same type; x itself where not given
//   labels   [B]     int64, modality [B] int64                     exclude [B] int64, a row of refs or -1
//   distance [4, B]  float32 (float64 for float64)                 index [4, B] int64
//
// Equal distances: the lowest j. No candidate: index -1 and distance -inf (positive) or +inf (negative).
// A row of x with a NaN or infinity: distance NaN, index -1. Such a row of refs is never chosen.
//
// This header is what both devices share, without torch: the meaning of the rows, and how a search may rank candidates.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ZSML_HD __host__ __device__ __forceinline__
#else
#define ZSML_HD inline
#endif

namespace zsml {

constexpr int kRoles = 4;
enum Role { kWithinPos = 0, kWithinNeg = 1, kCrossPos = 2, kCrossNeg = 3 };

// Every candidate plays exactly one role for an anchor.
ZSML_HD int role_of(bool same_label, bool same_modality) { return (same_modality ? 0 : 2) + (same_label ? 0 : 1); }

ZSML_HD bool is_positive(int role) { return role == kWithinPos || role == kCrossPos; }

// The search ranks by |b|^2 - 2 a.b, which is d^2 less the anchor's own |a|^2. That difference cancels where d^2 is small
// against |a|^2; below this fraction a winner is not trusted and the anchor's candidates are measured again, one by one, as
// sum_k (a_k - b_k)^2. Rounding errors of the product are some 1e-6 |a|^2, so a trusted d^2 is right to about 3e-5.
constexpr double kTrustedFraction = 1.0 / 32.0;

// Embeddings far from the origin cancel everywhere: when the mean of the candidates is this much longer than their spread
// (squared), the search subtracts it first. Distances do not change under a common shift. Below the threshold nothing is
// subtracted, so that small integers stay exact and mathematically equal distances stay equal.
constexpr double kCentreAbove = 16.0;

// What is subtracted is the mean on a grid as coarse as the spread allows, a power of two: coordinates that lie on a coarser or
// equal grid of their own (integers, say) then stay on one, their products stay exact, and ties stay ties.
ZSML_HD double snapped(double mean, double variance, int64_t depth) {
  if (!(variance > 0)) return mean;
  const double grid = ldexp(1.0, ilogb(sqrt(variance / static_cast<double>(depth))));
  return rint(mean / grid) * grid;
}

}  // namespace zsml
