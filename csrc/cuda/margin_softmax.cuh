// margin_softmax on CUDA: a supcon per pair whose candidates are the centres, with the target measured apart. As supcon.cuh for the rest.
#pragma once

#include "frame.cuh"
#include "pair_stream.cuh"

namespace zsml::cuda {

// The samples' own pairs, measured as they are and not in the frame.
template <class S, class T>
struct Targets {
  const S* x;            // [B, D]
  const S* centers;      // [C, D]
  const int64_t* label;  // [B]
  int64_t samples, classes, depth;
  int measure;

  // One warp: what is measured between sample i and its own centre.
  __device__ T measured(int64_t i) const {
    const S *a = x + i * depth, *b = centers + label[i] * depth;
    if (measure == kDistance) return warp_distance<T>(a, b, depth);
    if (measure == kSquaredDistance) return warp_squared_distance<T>(a, b, depth, T(1));
    T sum = 0;
    for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) sum += static_cast<T>(a[k]) * static_cast<T>(b[k]);
    return warp_sum(sum);
  }

  // What a row has of its pair with the target, per unit of weight.
  __device__ T slope(const S* own, const S* other, int64_t k) const {
    return measure == kInner ? static_cast<T>(other[k]) : static_cast<T>(own[k]) - static_cast<T>(other[k]);
  }
};

// What flowed into a coordinate: sum_j w_j other_j for the inner product, sum_j w_j (own - other_j) for the distances.
template <class T>
__device__ T flow(const T* sum, const T* own, int64_t k, int64_t depth, bool inner) {
  return inner ? sum[k] : sum[depth] * own[k] - sum[k];
}

// grad_x. weight [B] of the targets; where it is 0 the label may be out of range and either row not finite.
template <class S, class T>
__global__ void __launch_bounds__(kRowsThreads) store_samples(Targets<S, T> targets, const T* __restrict__ weight, const T* __restrict__ sum,
                                                              const T* __restrict__ rows, int64_t stride, S* __restrict__ out) {
  const int64_t i = row_of_warp(), depth = targets.depth;
  if (i >= targets.samples) return;
  const bool inner = targets.measure == kInner;
  const T by = weight[i];
  const S *own = targets.x + i * depth, *center = by != T(0) ? targets.centers + targets.label[i] * depth : nullptr;
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) {
    T value = flow(sum + i * stride, rows + i * stride, k, depth, inner);
    if (center) value += by * targets.slope(own, center, k);
    out[i * depth + k] = static_cast<S>(value);
  }
}

// grad_centers of the classes first to first + count - 1: sum and rows begin with the first. Its own samples are found by reading all
// labels, one read per pair beside the 3 D multiplications of each: no sort, no atomics, the same bits every run.
template <class S, class T>
__global__ void __launch_bounds__(kRowsThreads) store_centers(Targets<S, T> targets, const T* __restrict__ weight, int64_t first, int64_t count,
                                                              T* __restrict__ sum, const T* __restrict__ rows, int64_t stride, S* __restrict__ out) {
  const int64_t r = row_of_warp(), depth = targets.depth;
  if (r >= count) return;
  const int lane = threadIdx.x % kWarp;
  const S* center = targets.centers + (first + r) * depth;
  T* total = sum + r * stride;
  const bool inner = targets.measure == kInner;
  for (int64_t k = lane; k < depth; k += kWarp) total[k] = flow(total, rows + r * stride, k, depth, inner);
  for (int64_t start = 0; start < targets.samples; start += kWarp) {
    const int64_t mine = start + lane;
    const bool hit = mine < targets.samples && targets.label[mine] == first + r && weight[mine] != T(0);
    for (unsigned rest = __ballot_sync(kAllLanes, hit); rest; rest &= rest - 1) {
      const int64_t i = start + __ffs(static_cast<int>(rest)) - 1;
      const S* sample = targets.x + i * depth;
      for (int64_t k = lane; k < depth; k += kWarp) total[k] += weight[i] * targets.slope(center, sample, k);
    }
  }
  for (int64_t k = lane; k < depth; k += kWarp) out[(first + r) * depth + k] = static_cast<S>(total[k]);
}

// others and target. One warp per sample.
template <class S, class T>
__global__ void __launch_bounds__(kRowsThreads)
    finish_margin_softmax(Targets<S, T> targets, const uint8_t* __restrict__ finite, const uint8_t* __restrict__ center_finite, RowSums sums,
                          T* __restrict__ others, T* __restrict__ target) {
  const int64_t i = row_of_warp();
  if (i >= targets.samples) return;
  const int64_t label = targets.label[i];
  const bool known = finite[i] && 0 <= label && label < targets.classes && center_finite[label];
  const T measured = known ? targets.measured(i) : static_cast<T>(NAN);
  if (threadIdx.x % kWarp) return;
  others[i] = finite[i] ? static_cast<T>(value(sums.log_sum(i))) : static_cast<T>(NAN);
  target[i] = measured;
}

// What each sample's logits and its target weigh: nothing where it has no target. One thread per sample.
template <class T>
__global__ void pull_samples(int64_t samples, int measure, const T* __restrict__ grad_others, const T* __restrict__ grad_target,
                             const T* __restrict__ others, const T* __restrict__ target, AnchorPulls<T> pulls, T* __restrict__ weight) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= samples) return;
  const bool known = target[i] == target[i];
  AnchorPull<T> pull = anchor_pull(false, known ? grad_others[i] : T(0), others[i], 1, T(0));
  pull.positive = 0;
  pulls.set(i, pull);
  weight[i] = known ? measure_weight(measure, grad_target[i], target[i]) : T(0);
}

template <class S>
struct MarginSoftmaxRows {
  const S *x, *centers;   // [B, D], [C, D]
  const int64_t* labels;  // [B]
  int64_t samples, classes, depth;
  int measure;
  double scale;

  template <class T>
  PairSet<T> pairs() const {
    PairSet<T> set{};
    set.label = labels;
    set.per_pair = true, set.pairs = kAllPairs, set.measure = measure;
    set.scale = static_cast<T>(measure == kInner ? scale : -scale);
    return set;
  }
  template <class T>
  Targets<S, T> targets() const {
    return {x, centers, labels, samples, classes, depth, measure};
  }
};

// The shift of the frame: the mean of the centres where they lie far from the origin, else 0. The unit of a logit is fixed: no scale.
template <class T, class Run, class S>
typename Run::template Room<T> choose_frame(Run& run, const MarginSoftmaxRows<S>& in) {
  auto shift = run.template room<T>(in.depth);
  auto no_scale = run.template room<T>(1);
  auto centred = run.template room<int>(1);  // of no interest here
  auto finite = run.template room<uint8_t>(in.classes);
  auto sums = run.template room<double>(2 * kStripes * in.depth);
  double *column = sums.data(), *square = column + kStripes * in.depth;
  run.clear(no_scale);
  run.launch(prepare_rows<S, T>, blocks_for(in.classes, kRowsPerBlock), kRowsThreads, in.centers, in.classes, in.depth, in.depth,
             static_cast<const T*>(nullptr), static_cast<T*>(nullptr), finite.data(), static_cast<T*>(nullptr));
  run.launch(sum_columns<S, T>, dim3(blocks_for(in.depth, kColumnsPerBlock), kStripes), dim3(kColumnsPerBlock, kStripeRows), in.centers,
             finite.data(), in.classes, in.depth, no_scale.data(), column, square);
  run.launch(choose_shift<T>, 1, kShiftThreads, column, square, finite.data(), in.classes, in.depth, shift.data(), centred.data());
  return shift;
}

template <class T, class Run, class S>
PairStream<Run, S, T> margin_softmax_stream(Run& run, const MarginSoftmaxRows<S>& in, const T* shift) {
  return {run, {in.x, in.samples}, {in.centers, in.classes}, in.depth, shift, in.template pairs<T>()};
}

template <class T, class Run, class S>
void run_margin_softmax(Run& run, const MarginSoftmaxRows<S>& in, T* others, T* target) {
  auto shift = run.template room<T>(0);
  if (in.measure != kInner) shift = choose_frame<T>(run, in);
  auto stream = margin_softmax_stream<T>(run, in, in.measure == kInner ? nullptr : shift.data());
  SumRoom<Run> sums(run, in.samples);
  stream.sum(sums.sums);
  run.launch(finish_margin_softmax<S, T>, blocks_for(in.samples, kRowsPerBlock), kRowsThreads, in.template targets<T>(), stream.set().finite,
             stream.set().ref_finite, sums.sums, others, target);
}

// grad_x [B, D] or null, grad_centers [C, D] or null.
template <class T, class Run, class S>
void run_margin_softmax_backward(Run& run, const MarginSoftmaxRows<S>& in, const T* grad_others, const T* grad_target, const T* others,
                                 const T* target, S* grad_x, S* grad_centers) {
  auto shift = run.template room<T>(0);
  if (in.measure != kInner) shift = choose_frame<T>(run, in);
  auto stream = margin_softmax_stream<T>(run, in, in.measure == kInner ? nullptr : shift.data());
  PullRoom<Run, T> pulls(run, in.samples);
  auto weight = run.template room<T>(in.samples);
  run.launch(pull_samples<T>, blocks_for(in.samples, kRowsThreads), kRowsThreads, in.samples, in.measure, grad_others, grad_target, others, target,
             pulls.pulls, weight.data());
  const auto targets = in.template targets<T>();
  const auto sum = stream.gradient(pulls.pulls, grad_x, grad_centers, [&](int64_t first, int64_t count, T* sum, const T* rows) {
    run.launch(store_centers<S, T>, blocks_for(count, kRowsPerBlock), kRowsThreads, targets, weight.data(), first, count, sum, rows, stream.stride(),
               grad_centers);
  });
  if (grad_x)
    run.launch(store_samples<S, T>, blocks_for(in.samples, kRowsPerBlock), kRowsThreads, targets, weight.data(), sum.data(), stream.rows(),
               stream.stride(), grad_x);
}

}  // namespace zsml::cuda
