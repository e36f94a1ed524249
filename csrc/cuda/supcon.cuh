// supcon on CUDA: what is its own beside the stream of pairs.
#pragma once

#include "pair_stream.cuh"

namespace zsml::cuda {

constexpr int kAnchorThreads = 256;

// The results of each anchor. One thread per anchor.
template <class T>
__global__ void __launch_bounds__(kAnchorThreads)
    finish_supcon(int64_t anchors, bool per_pair, const uint8_t* __restrict__ finite, RowSums sums, T* __restrict__ loss, T* __restrict__ lse,
                  int64_t* __restrict__ positives, T* __restrict__ pull) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kAnchorThreads) + threadIdx.x;
  if (i >= anchors) return;
  const double log_sum = value(sums.log_sum(i));
  const int64_t number = sums.positives[i];
  const double own = per_pair ? sums.terms[i] : number ? log_sum - sums.positive[i] / static_cast<double>(number) : 0;
  loss[i] = finite[i] ? static_cast<T>(own) : static_cast<T>(NAN);
  lse[i] = finite[i] ? static_cast<T>(log_sum) : static_cast<T>(NAN);
  positives[i] = finite[i] ? number : 0;
  pull[i] = per_pair && finite[i] ? static_cast<T>(sums.pull[i]) : T(0);
}

template <class T>
__global__ void __launch_bounds__(kAnchorThreads)
    pull_anchors(int64_t anchors, bool per_pair, const T* __restrict__ grad, const T* __restrict__ lse, const int64_t* __restrict__ positives,
                 const T* __restrict__ pull, AnchorPulls<T> pulls) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kAnchorThreads) + threadIdx.x;
  if (i < anchors) pulls.set(i, anchor_pull(per_pair, grad[i], lse[i], positives[i], pull[i]));
}

template <class S>
struct SupconRows {
  const S *x, *refs;  // [B, D], [M, D]; the same where self
  const int64_t *labels, *modality, *ref_labels, *ref_modality;
  const int64_t* exclude;  // [B] or null
  int64_t anchors, candidates, depth;
  bool self;
  double temperature;
  int pairs;
  bool per_pair;

  template <class T>
  PairSet<T> all_pairs() const {
    PairSet<T> set{};
    set.label = labels, set.ref_label = ref_labels;
    if (pairs != kAllPairs) set.modality = modality, set.ref_modality = ref_modality;
    set.exclude = exclude;
    set.self = self, set.per_pair = per_pair, set.pairs = pairs, set.measure = kInner;
    set.scale = static_cast<T>(1 / temperature);
    return set;
  }
};

template <class T, class Run, class S>
PairStream<Run, S, T> supcon_stream(Run& run, const SupconRows<S>& in) {
  return {run, {in.x, in.anchors}, {in.refs, in.candidates}, in.depth, nullptr, in.template all_pairs<T>()};
}

template <class T, class Run, class S>
void run_supcon(Run& run, const SupconRows<S>& in, T* loss, T* lse, int64_t* positives, T* pull) {
  auto stream = supcon_stream<T>(run, in);
  SumRoom<Run> sums(run, in.anchors);
  stream.sum(sums.sums);
  if (in.per_pair) stream.sum_positives(sums.sums);
  run.launch(finish_supcon<T>, blocks_for(in.anchors, kAnchorThreads), kAnchorThreads, in.anchors, in.per_pair, stream.set().finite, sums.sums, loss,
             lse, positives, pull);
}

// grad_x [B, D] or null, grad_refs [M, D] or null.
template <class T, class Run, class S>
void run_supcon_backward(Run& run, const SupconRows<S>& in, const T* grad, const T* lse, const int64_t* positives, const T* pull, S* grad_x,
                         S* grad_refs) {
  auto stream = supcon_stream<T>(run, in);
  PullRoom<Run, T> pulls(run, in.anchors);
  run.launch(pull_anchors<T>, blocks_for(in.anchors, kAnchorThreads), kAnchorThreads, in.anchors, in.per_pair, grad, lse, positives, pull,
             pulls.pulls);
  const auto sum = stream.gradient(pulls.pulls, grad_x, grad_refs, [&](int64_t first, int64_t count, const T* sum, const T*) {
    run.launch(store_rows<S, T>, blocks_for(count, kRowsPerBlock), kRowsThreads, sum, count, in.depth, stream.stride(), grad_refs + first * in.depth);
  });
  if (grad_x)
    run.launch(store_rows<S, T>, blocks_for(in.anchors, kRowsPerBlock), kRowsThreads, in.candidates ? sum.data() : nullptr, in.anchors, in.depth,
               stream.stride(), grad_x);
}

}  // namespace zsml::cuda
