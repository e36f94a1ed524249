// The launches of csrc/cuda/rank_relevant.cu, on the emulator: the same kernels in the same order with the same arguments, std::vector
// for tensors. It mirrors that file by hand: change the two together.
#pragma once

#include "cuda_emulator.h"

namespace zsml::cuda {
EMULATOR_DYNAMIC_SHARED(double, room)
}

#include "../../csrc/cuda/rank_relevant_count.cuh"
#include "relevant_cases.h"

namespace zsml::cuda::test {

using emulator::launch;

template <class S>
struct Embeddings {
  int64_t queries, rows, depth;
  std::vector<S> query, gallery;  // [Q, D], [N, D]
  std::vector<double> shift;      // [D]
  double scale;
  bool cosine;
};

template <class T>
struct Values {
  std::vector<T> plus, times;  // [N]
  std::vector<T> all;          // [Q, N], what the buffer held, block after block
  std::vector<int32_t> out;    // [3, T]
};

// block: queries at hand. in_shared: whether the relevant may lie in shared memory.
template <class S, class T>
Values<T> launch_rank_relevant(const Embeddings<S>& in, const Classes& classes, int64_t block, bool in_shared, uint64_t seed) {
  using Shape = TileShape<T>;
  const DeviceClasses relevant(classes, seed);
  const int64_t largest = relevant.largest;
  Values<T> result{scratch<T>(in.rows, seed), scratch<T>(in.rows, seed), {}, std::vector<int32_t>(kCounts * relevant.total)};
  if (relevant.total == 0) return result;
  std::vector<T> shift = scratch<T>(in.depth, seed);
  launch(seed, round_shift<T>, ceil_div(in.depth, kRankThreads), kRankThreads, 0, in.shift.data(), in.depth, shift.data());
  launch(seed, weigh_gallery<S, T>, ceil_div(in.rows, kRankThreads), kRankThreads, 0, in.gallery.data(), in.rows, in.depth, shift.data(),
         static_cast<T>(in.scale), in.cosine, result.plus.data(), result.times.data());
  const size_t bytes = relevant_bytes<T>(largest);
  const bool fits = in_shared && bytes <= kRelevantBytes;
  std::vector<T> value = scratch<T>(block * in.rows, seed), room_value = scratch<T>(fits ? 0 : block * largest, seed);
  std::vector<int32_t> room_row = scratch<int32_t>(fits ? 0 : block * largest, seed);
  for (int64_t first = 0; first < in.queries; first += block) {
    const int64_t count = std::min(block, in.queries - first);
    launch(seed, value_tiles<S, T>, ceil_div(count, Shape::height) * ceil_div(in.rows, Shape::width), Shape::threads, 0,
           in.query.data() + first * in.depth, in.gallery.data(), count, in.rows, in.depth, shift.data(), static_cast<T>(in.scale),
           result.plus.data(), result.times.data(), value.data());
    launch(seed, fits ? count_gaps<T, true> : count_gaps<T, false>, count, kRankThreads, fits ? bytes : 0, value.data(), relevant.device(classes),
           first, in.rows, largest, room_value.data(), room_row.data(), relevant.total, result.out.data());
    result.all.insert(result.all.end(), value.begin(), value.begin() + count * in.rows);
  }
  return result;
}

}  // namespace zsml::cuda::test
