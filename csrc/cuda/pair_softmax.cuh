// What supcon and margin_softmax make of a block of products <x_i, r_j>: sums per anchor forward, weights in place backward.
//
// One pass over the block each. Blocks come in a fixed order and sums are merged as a fixed tree: the same bits every run.
#pragma once

#include <limits>

#include "../pair_softmax.h"
#include "warp.cuh"

namespace zsml::cuda {

constexpr int kSumThreads = 256;
constexpr int kSumRows = 4;  // anchors a block sums at once: what it reads of a candidate serves all of them
constexpr int kWeighThreads = 256;
constexpr int kWeighRows = 16;

// Which pairs a block holds: anchors row ... row + rows - 1, candidates column ... column + columns - 1.
struct PairBlock {
  int64_t row, rows, column, columns;
};

// How much of the two squared lengths a distance of zero is taken for, so that its gradient stays bounded.
template <class T>
constexpr T kEpsilon = std::numeric_limits<T>::epsilon();

enum Relation { kNoPair, kNegative, kPositive };

template <class T>
struct PairEnd {  // what a pair must know of either of its rows
  int64_t label, modality;
  bool finite;
  T norm;
};

// All pairs there are. margin_softmax is a supcon per pair with the centres as candidates, and a single positive.
template <class T>
struct PairSet {
  const int64_t *label, *modality;          // of the anchors [B]; modality is null where it does not matter
  const int64_t *ref_label, *ref_modality;  // of the candidates [M]; ref_label is null where candidate j is class j
  const int64_t* exclude;                   // [B] or null
  const uint8_t *finite, *ref_finite;       // [B], [M]
  const T *norm, *ref_norm;                 // [B], [M] squared lengths, for the distances
  bool self, per_pair;
  int pairs, measure;
  T scale;  // of a logit: 1 / temperature, negative for the distances

  __device__ PairEnd<T> anchor(int64_t i) const { return {label[i], modality ? modality[i] : 0, finite[i] != 0, norm ? norm[i] : T(0)}; }
  __device__ PairEnd<T> candidate(int64_t j) const {
    return {ref_label ? ref_label[j] : j, ref_modality ? ref_modality[j] : 0, ref_finite[j] != 0, ref_norm ? ref_norm[j] : T(0)};
  }
  // The candidate anchor i must not have.
  __device__ int64_t skipped(int64_t i) const { return self ? i : exclude ? exclude[i] : -1; }
  __device__ Relation relation(const PairEnd<T>& a, const PairEnd<T>& b, int64_t skip, int64_t j) const {
    if (!a.finite || !b.finite || j == skip || !is_kept(pairs, a.modality == b.modality)) return kNoPair;
    return a.label == b.label ? kPositive : kNegative;
  }
  __device__ T measured(const PairEnd<T>& a, const PairEnd<T>& b, T product) const {
    if (measure == kInner) return product;
    const T norms = a.norm + b.norm, square = norms - T(2) * product, positive = square > T(0) ? square : T(0);
    return measure == kSquaredDistance ? positive : sqrt(positive + kEpsilon<T> * norms);
  }
};

// ---- forward ---------------------------------------------------------------------------------------------------------------------

// What has been summed of each anchor so far, in double whatever the products are: one merge per block of pairs.
struct RowSums {
  double *top, *sum;         // [B] log-sum-exp of the negatives where per_pair, else of all candidates
  double *positive, *terms;  // [B] sum of the positives' logits; per pair the terms of the loss
  double* pull;              // [B]
  int64_t* positives;        // [B]

  __device__ LogSum<double> log_sum(int64_t i) const { return {top[i], sum[i]}; }
};

template <class T>
__device__ LogSum<T> warp_log_sum(LogSum<T> value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const LogSum<T> other{__shfl_xor_sync(kAllLanes, value.top, step), __shfl_xor_sync(kAllLanes, value.sum, step)};
    value = merge(value, other);
  }
  return value;
}

template <class T>
__device__ void add(LogSum<T>& total, T value) {
  if (value <= total.top) {
    total.sum += exp(value - total.top);
  } else {
    total.sum = total.sum * exp(total.top - value) + T(1);
    total.top = value;
  }
}

// Calls body(r, relation, logit) for the pairs of anchors first ... first + kSumRows - 1 of the block that fall to this thread.
template <class T, class Body>
__device__ void for_pairs(const PairSet<T>& set, const PairBlock& block, int64_t first, const T* product, int64_t stride, const Body& body) {
  PairEnd<T> anchor[kSumRows];
  int64_t skip[kSumRows];
#pragma unroll
  for (int r = 0; r < kSumRows; ++r) {
    const int64_t i = block.row + (first + r < block.rows ? first + r : first);
    anchor[r] = set.anchor(i), skip[r] = set.skipped(i);
    if (first + r >= block.rows) anchor[r].finite = false;
  }
  for (int64_t c = threadIdx.x; c < block.columns; c += kSumThreads) {
    const PairEnd<T> candidate = set.candidate(block.column + c);
#pragma unroll
    for (int r = 0; r < kSumRows; ++r) {
      const Relation relation = set.relation(anchor[r], candidate, skip[r], block.column + c);
      if (relation != kNoPair) body(r, relation, set.scale * set.measured(anchor[r], candidate, product[(first + r) * stride + c]));
    }
  }
}

// Log-sum-exps, and sums and numbers of the positives. grid (ceil(rows / kSumRows)); fresh: nothing was summed of these anchors yet.
template <class T>
__global__ void __launch_bounds__(kSumThreads) sum_pairs(PairSet<T> set, PairBlock block, const T* __restrict__ product,  // [rows, stride]
                                                         int64_t stride, bool fresh, RowSums sums) {
  constexpr int warps = kSumThreads / kWarp;
  __shared__ LogSum<T> all_of[kSumRows][warps];
  __shared__ T positive_of[kSumRows][warps];
  __shared__ int positives_of[kSumRows][warps];
  const int64_t first = blockIdx.x * static_cast<int64_t>(kSumRows);
  LogSum<T> all[kSumRows];
  T positive[kSumRows] = {};
  int positives[kSumRows] = {};
#pragma unroll
  for (int r = 0; r < kSumRows; ++r) all[r] = empty_log_sum<T>();
  for_pairs(set, block, first, product, stride, [&](int r, Relation relation, T logit) {
    if (relation == kPositive) positive[r] += logit, ++positives[r];
    if (relation == kNegative || !set.per_pair) add(all[r], logit);
  });
#pragma unroll
  for (int r = 0; r < kSumRows; ++r) {
    all[r] = warp_log_sum(all[r]), positive[r] = warp_sum(positive[r]), positives[r] = warp_sum(positives[r]);
    if (threadIdx.x % kWarp == 0) {
      const int w = threadIdx.x / kWarp;
      all_of[r][w] = all[r], positive_of[r][w] = positive[r], positives_of[r][w] = positives[r];
    }
  }
  __syncthreads();
  const int r = threadIdx.x;
  if (r >= kSumRows || first + r >= block.rows) return;
  const int64_t i = block.row + first + r;
  LogSum<double> total = fresh ? empty_log_sum<double>() : sums.log_sum(i);
  double sum = fresh ? 0 : sums.positive[i];
  int64_t number = fresh ? 0 : sums.positives[i];
  for (int w = 0; w < warps; ++w) {
    total = merge(total, LogSum<double>{all_of[r][w].top, all_of[r][w].sum});
    sum += positive_of[r][w], number += positives_of[r][w];
  }
  sums.top[i] = total.top, sums.sum[i] = total.sum;
  sums.positive[i] = sum, sums.positives[i] = number;
}

// Per pair, once the log-sum-exps are known: the terms of all positives, and how hard each pulls. As sum_pairs.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_terms(PairSet<T> set, PairBlock block, const T* __restrict__ product, int64_t stride, bool fresh, RowSums sums) {
  constexpr int warps = kSumThreads / kWarp;
  __shared__ T terms_of[kSumRows][warps], pull_of[kSumRows][warps];
  const int64_t first = blockIdx.x * static_cast<int64_t>(kSumRows);
  T lse[kSumRows], terms[kSumRows] = {}, pull[kSumRows] = {};
#pragma unroll
  for (int r = 0; r < kSumRows; ++r) lse[r] = first + r < block.rows ? static_cast<T>(value(sums.log_sum(block.row + first + r))) : T(0);
  for_pairs(set, block, first, product, stride, [&](int r, Relation relation, T logit) {
    if (relation == kPositive) terms[r] += softplus(lse[r] - logit), pull[r] += sigmoid(lse[r] - logit);
  });
#pragma unroll
  for (int r = 0; r < kSumRows; ++r) {
    terms[r] = warp_sum(terms[r]), pull[r] = warp_sum(pull[r]);
    if (threadIdx.x % kWarp == 0) terms_of[r][threadIdx.x / kWarp] = terms[r], pull_of[r][threadIdx.x / kWarp] = pull[r];
  }
  __syncthreads();
  const int r = threadIdx.x;
  if (r >= kSumRows || first + r >= block.rows) return;
  const int64_t i = block.row + first + r;
  double sum = fresh ? 0 : sums.terms[i], pulled = fresh ? 0 : sums.pull[i];
  for (int w = 0; w < warps; ++w) sum += terms_of[r][w], pulled += pull_of[r][w];
  sums.terms[i] = sum, sums.pull[i] = pulled;
}

// ---- backward --------------------------------------------------------------------------------------------------------------------

template <class T>
struct AnchorPulls {
  T *lse, *all, *positive;  // [B]
  __device__ AnchorPull<T> operator[](int64_t i) const { return {lse[i], all[i], positive[i]}; }
  __device__ void set(int64_t i, const AnchorPull<T>& pull) const { lse[i] = pull.lse, all[i] = pull.all, positive[i] = pull.positive; }
};

// d loss / d logit of one anchor's pair. An anchor without a gradient has no lse either, and e^logit might be infinite.
template <class T>
__device__ T logit_weight(bool per_pair, Relation relation, T logit, const AnchorPull<T>& pull) {
  return pull.all == T(0) && pull.positive == T(0) ? T(0) : pair_weight(per_pair, relation == kPositive, exp(logit - pull.lse), pull);
}

// Puts in place of each product its weight in sum_j weight_ij r_j; without refs the gradients of both ends at once.
// grid (ceil(columns / kWeighThreads), ceil(rows / kWeighRows))
template <class T>
__global__ void __launch_bounds__(kWeighThreads)
    weigh_pairs(PairSet<T> set, PairBlock block, AnchorPulls<T> pulls, T* __restrict__ product, int64_t stride) {
  __shared__ PairEnd<T> anchor[kWeighRows];
  __shared__ AnchorPull<T> pull[kWeighRows];
  __shared__ int64_t skip[kWeighRows];
  const int64_t first = blockIdx.y * static_cast<int64_t>(kWeighRows), c = blockIdx.x * static_cast<int64_t>(kWeighThreads) + threadIdx.x;
  if (threadIdx.x < kWeighRows && first + threadIdx.x < block.rows) {
    const int64_t i = block.row + first + threadIdx.x;
    anchor[threadIdx.x] = set.anchor(i), pull[threadIdx.x] = pulls[i], skip[threadIdx.x] = set.skipped(i);
  }
  __syncthreads();
  if (c >= block.columns) return;
  const PairEnd<T> candidate = set.candidate(block.column + c);
  const AnchorPull<T> back = set.self ? pulls[block.column + c] : AnchorPull<T>{T(0), T(0), T(0)};
  for (int r = 0; r < kWeighRows && first + r < block.rows; ++r) {
    T* at = product + (first + r) * stride + c;
    const Relation relation = set.relation(anchor[r], candidate, skip[r], block.column + c);
    if (relation == kNoPair) {
      *at = T(0);
      continue;
    }
    const T measured = set.measured(anchor[r], candidate, *at), logit = set.scale * measured;
    const T weight = logit_weight(set.per_pair, relation, logit, pull[r]) + logit_weight(set.per_pair, relation, logit, back);
    *at = measure_weight(set.measure, set.scale * weight, measured);
  }
}

}  // namespace zsml::cuda
