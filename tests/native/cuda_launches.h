// The launches of csrc/cuda/hardest_pairs.cu, on the emulator: the same kernels in the same order with the same arguments, std::vector
// for tensors. It mirrors that file by hand: change the two together.
#pragma once

#include "cuda_emulator.h"

#include "../../csrc/cuda/frame.cuh"
#include "../../csrc/cuda/hardest_pairs_small.cuh"
#include "../../csrc/cuda/hardest_pairs_tiled.cuh"
#include "../../csrc/cuda/pair_gradient.cuh"
#include "cuda_memory.h"

namespace zsml::cuda::test {

using emulator::launch;
using Ids = std::vector<int64_t>;

template <class S>
struct Input {
  int64_t anchors, candidates, depth;
  std::vector<S> x, refs;  // [B, D], [M, D]; refs is x where self
  Ids labels, modality, ref_labels, ref_modality, exclude;
  bool self, excludes;
  const int64_t* excluded() const { return excludes ? exclude.data() : nullptr; }
};

template <class T>
struct Output {
  std::vector<T> distance;  // [4, B]
  Ids index;                // [4, B]
};

template <class S, class T>
Output<T> launch_small(const Input<S>& in, uint64_t seed) {
  Output<T> out{scratch<T>(kRoles * in.anchors, seed), scratch<int64_t>(kRoles * in.anchors, seed)};
  launch(seed, hardest_pairs_small<S, T>, in.anchors, kSmallThreads, 0, in.x.data(), in.labels.data(), in.modality.data(), in.refs.data(),
         in.ref_labels.data(), in.ref_modality.data(), in.excluded(), in.self, in.anchors, in.candidates, in.depth, out.distance.data(),
         out.index.data());
  return out;
}

template <class S, class T>
struct Frame {
  std::vector<uint8_t> finite, ref_finite;
  std::vector<T> largest, shift;
  std::vector<int> centred;

  Frame(const Input<S>& in, uint64_t seed) : largest(1), shift(scratch<T>(in.depth, seed)), centred(scratch<int>(1, seed)) {
    std::vector<double> sums = scratch<double>(2 * kStripes * in.depth, seed);
    inspect(in.refs, in.candidates, in.depth, ref_finite, seed);
    if (in.self)
      finite = ref_finite;
    else
      inspect(in.x, in.anchors, in.depth, finite, seed);
    launch(seed, sum_columns<S, T>, dim3(ceil_div(in.depth, kColumnsPerBlock), kStripes), dim3(kColumnsPerBlock, kStripeRows), 0, in.refs.data(),
           ref_finite.data(), in.candidates, in.depth, largest.data(), sums.data(), sums.data() + kStripes * in.depth);
    launch(seed, choose_shift<T>, 1, kShiftThreads, 0, sums.data(), sums.data() + kStripes * in.depth, ref_finite.data(), in.candidates, in.depth,
           shift.data(), centred.data());
  }

 private:
  void inspect(const std::vector<S>& rows, int64_t count, int64_t depth, std::vector<uint8_t>& out, uint64_t seed) {
    out = scratch<uint8_t>(std::max<int64_t>(count, 1), seed);
    if (count == 0) return;
    launch(seed, inspect_rows<S, T>, ceil_div(count, kRowThreads / kWarp), kRowThreads, 0, rows.data(), count, depth, out.data(), largest.data());
  }
};

template <class S, class T, class Winners>
Output<T> launch_finish(const Input<S>& in, const Frame<S, T>& frame, const Winners& winners, uint64_t seed) {
  Output<T> out{scratch<T>(kRoles * in.anchors, seed), scratch<int64_t>(kRoles * in.anchors, seed)};
  launch(seed, finish_anchors<S, T, Winners>, in.anchors, kRoles * kWarp, 0, in.x.data(), frame.finite.data(), in.labels.data(), in.modality.data(),
         in.refs.data(), frame.ref_finite.data(), in.ref_labels.data(), in.ref_modality.data(), in.excluded(), in.self, in.anchors, in.candidates,
         in.depth, winners, out.distance.data(), out.index.data());
  return out;
}

template <class S, class T>
std::vector<T> launch_measure(const Frame<S, T>& frame, const std::vector<S>& rows, const std::vector<uint8_t>& usable, int64_t count, int64_t depth,
                              uint64_t seed) {
  std::vector<T> norm = scratch<T>(std::max<int64_t>(count, 1), seed);
  if (count == 0) return norm;
  launch(seed, measure_rows<S, T>, ceil_div(count, kRowThreads / kWarp), kRowThreads, 0, rows.data(), usable.data(), count, depth,
         frame.largest.data(), frame.shift.data(), norm.data());
  return norm;
}

template <class T>
int64_t usual_splits(int64_t anchors, int64_t candidates) {
  using Shape = TileShape<T>;
  const int64_t anchor_tiles = ceil_div(anchors, Shape::height);
  return std::clamp<int64_t>(ceil_div(512, anchor_tiles), 1, std::clamp<int64_t>(ceil_div(candidates, Shape::width), 1, 64));
}

template <class S, class T>
Output<T> launch_tiled(const Input<S>& in, int64_t splits, uint64_t seed) {
  using Shape = TileShape<T>;
  const Frame<S, T> frame(in, seed);
  const std::vector<T> ref_norm = launch_measure(frame, in.refs, frame.ref_finite, in.candidates, in.depth, seed);
  const std::vector<T> norm = in.self ? ref_norm : launch_measure(frame, in.x, frame.finite, in.anchors, in.depth, seed);
  const int64_t anchor_tiles = ceil_div(in.anchors, Shape::height);
  std::vector<T> value = scratch<T>(splits * kRoles * in.anchors, seed);
  Ids where = scratch<int64_t>(splits * kRoles * in.anchors, seed);
  const PartialWinners<T> partial{value.data(), where.data(), norm.data(), in.anchors, static_cast<int>(splits)};
  launch(seed, search_tiles<S, T>, dim3(anchor_tiles, splits), Shape::threads, 0, in.x.data(), frame.finite.data(), in.labels.data(),
         in.modality.data(), in.refs.data(), frame.ref_finite.data(), ref_norm.data(), in.ref_labels.data(), in.ref_modality.data(), in.excluded(),
         in.self, in.anchors, in.candidates, in.depth, frame.largest.data(), frame.shift.data(), partial);
  return launch_finish<S, T>(in, frame, partial, seed);
}

template <class S, class T>
std::vector<S> launch_gradient(const Input<S>& in, const Output<T>& pairs_of, const std::vector<T>& grad, bool own, bool incoming, bool sort,
                               uint64_t seed) {
  const int64_t rows = own ? in.anchors : in.candidates;
  std::vector<S> out = scratch<S>(rows * in.depth, seed);
  if (rows == 0) return out;
  Ids order(kRoles * in.anchors), sorted;
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return pairs_of.index[a] < pairs_of.index[b]; });
  for (int64_t at : order) sorted.push_back(pairs_of.index[at]);
  const Pairs<S, T> pairs{in.x.data(), in.refs.data(), grad.data(), pairs_of.distance.data(), pairs_of.index.data(), in.anchors, in.depth};
  launch(seed, pair_gradient<S, T>, dim3(rows, ceil_div(in.depth, kGradientColumns)), kGradientThreads, 0, pairs, own, incoming,
         sort ? sorted.data() : nullptr, sort ? order.data() : nullptr, out.data());
  return out;
}

}  // namespace zsml::cuda::test
