// supcon and margin_softmax: log-sum-exp over pairs, one streaming pass forward, recomputed pairs backward.
//
// supcon, the supervised contrastive losses. s_ij = <x_i, r_j> / temperature. The candidates A(i) of anchor i are all rows of refs but
// exclude[i] (without refs: all rows of x but i), kept to those of the anchor's modality or of the others as `pairs` says; P(i) are those
// of the anchor's label, N(i) the rest.
//
//   per_pair = false (SupCon, Khosla et al. 2020, eq. 2):   lse_i = log sum_{a in A(i)} e^{s_ia},  loss_i = lse_i - mean_{p in P(i)} s_ip
//   per_pair = true  (NT-Xent, a term for every positive):  lse_i = log sum_{n in N(i)} e^{s_in},  loss_i = sum_p log(1 + e^{lse_i - s_ip})
//                                                                                                  pull_i = sum_p sigmoid(lse_i - s_ip)
//   x         [B, D]  float16 | bfloat16 | float32 | float64      refs  [M, D]  same type; x itself where not given
//   labels, modality  [B] int64; ref_labels, ref_modality [M]     exclude [B] int64, a row of refs or -1
//   loss, lse, pull   [B]  float32 (float64 for float64)          positives [B] int64 = |P(i)|
//
// No positive: loss and gradient 0. Nothing to sum: lse -inf. A row of x with a NaN or infinity: loss and lse NaN, positives and pull 0,
// no gradient. Such a row of refs is never a candidate.
//
// margin_softmax, the part of a softmax over class centres that does not depend on the margin. With m_ij the measure of x_i and c_j,
// <x, c>, |x - c|^2 or |x - c|, and z_ij = scale m_ij for the inner product, -scale m_ij for the distances:
//
//   others_i = log sum_{j != label_i} e^{z_ij},   target_i = m_{i, label_i};   any margin loss is softplus(others_i - z(target_i))
//
//   x [B, D], centers [C, D] floating point; labels [B] int64, 0 to C - 1; others, target [B] float32 (float64 for float64)
//
// One class: others -inf. A row of x with a NaN or infinity: others and target NaN, no gradient. Such a centre: target NaN for its own
// rows, skipped by all others. The target is measured as a difference, where nothing cancels. The others' squared distances are
// |x|^2 + |c|^2 - 2 <x, c>, which does cancel: both sides are shifted by the mean of the centres first (snapped() to a grid; on CUDA only
// where that mean is much longer than the centres spread around it, kCentreAbove), and a distance is the root of that plus epsilon
// (|x|^2 + |c|^2), so that its gradient stays bounded.
//
// This header is what both devices share, without torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "hardest_pairs.h"

namespace zsml {

enum Pairs { kAllPairs = 0, kWithinPairs = 1, kCrossPairs = 2 };
constexpr int kPairs = 3;
enum Measure { kInner = 0, kSquaredDistance = 1, kDistance = 2 };
constexpr int kMeasures = 3;

ZSML_HD bool is_kept(int pairs, bool same_modality) { return pairs == kAllPairs || same_modality == (pairs == kWithinPairs); }

// log(1 + e^t)
template <class T>
ZSML_HD T softplus(T t) {
  return (t > T(0) ? t : T(0)) + log1p(exp(t > T(0) ? -t : t));
}

// 1 / (1 + e^-t)
template <class T>
ZSML_HD T sigmoid(T t) {
  const T e = exp(t > T(0) ? -t : t);
  return (t > T(0) ? T(1) : e) / (T(1) + e);
}

// sum_j e^{v_j}, kept as e^top * sum with top the largest v_j so far: no v is too large.
template <class T>
struct LogSum {
  T top, sum;
};

template <class T>
ZSML_HD LogSum<T> empty_log_sum() {
  return {static_cast<T>(-INFINITY), T(0)};
}

template <class T>
ZSML_HD LogSum<T> merge(LogSum<T> a, LogSum<T> b) {
  if (a.sum == T(0)) return b;
  if (b.sum == T(0)) return a;
  const T top = a.top > b.top ? a.top : b.top;
  return {top, a.sum * exp(a.top - top) + b.sum * exp(b.top - top)};
}

template <class T>
ZSML_HD T value(LogSum<T> a) {
  return a.sum == T(0) ? static_cast<T>(-INFINITY) : a.top + log(a.sum);
}

// ---- gradient of supcon ----------------------------------------------------------------------------------------------------------

// What d loss / d s_ij needs of anchor i.
template <class T>
struct AnchorPull {
  T lse;       // finite
  T all;       // factor of e^{s_ij - lse_i}
  T positive;  // what positives add
};

template <class T>
ZSML_HD AnchorPull<T> anchor_pull(bool per_pair, T grad, T lse, int64_t positives, T pull) {
  if (positives <= 0 || !(lse - lse == T(0))) return {T(0), T(0), T(0)};  // no negatives: log(1 + 0) for every positive, no gradient
  if (per_pair) return {lse, grad * pull, grad};
  return {lse, grad, grad / static_cast<T>(positives)};
}

// d loss / d s_ij of a candidate j from e = e^{s_ij - lse_i}, which may be infinite where per_pair and positive.
template <class T>
ZSML_HD T pair_weight(bool per_pair, bool same_label, T e, const AnchorPull<T>& anchor) {
  if (!per_pair) return anchor.all * e - (same_label ? anchor.positive : T(0));
  return same_label ? -anchor.positive / (T(1) + e) : anchor.all * e;
}

// ---- gradient of margin_softmax ----------------------------------------------------------------------------------------------------
// Every pair gives x_i the gradient weight * c_j (inner) or weight * (x_i - c_j) (distances), and c_j weight * x_i or the opposite.

// z of a measured value.
template <class T>
ZSML_HD T logit(int measure, T scale, T measured) {
  return measure == kInner ? scale * measured : -scale * measured;
}

// From g = d loss / d m_ij: m itself is needed for the distance alone, whose gradient is 0 where it is 0.
template <class T>
ZSML_HD T measure_weight(int measure, T g, T measured) {
  if (measure == kInner) return g;
  if (measure == kSquaredDistance) return T(2) * g;
  return measured > T(0) ? g / measured : T(0);
}

}  // namespace zsml
