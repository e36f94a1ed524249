// The launches of csrc/cuda/hamming.cu, on the emulator: the same kernels in the same order with the same arguments, std::vector for
// tensors. It mirrors that file by hand: change the two together.
#pragma once

#include "cuda_emulator.h"

namespace zsml::cuda {
EMULATOR_DYNAMIC_SHARED(uint32_t, counters)
}

#include "../../csrc/cuda/hamming_relevant.cuh"
#include "../../csrc/cuda/hamming_select.cuh"
#include "relevant_cases.h"

namespace zsml::cuda::test {

using emulator::launch;
using Bytes = std::vector<uint8_t>;

// Codes of `bytes` bytes, at an odd address.
struct Codes {
  int64_t count, bytes;
  Bytes memory;  // 1 + count * bytes

  Codes(int64_t count, int64_t bytes) : count(count), bytes(bytes), memory(1 + count * bytes) {}
  uint8_t* row(int64_t r) { return memory.data() + 1 + r * bytes; }
  const uint8_t* row(int64_t r) const { return memory.data() + 1 + r * bytes; }
};

struct Words {
  int64_t words;
  std::vector<uint64_t> q, g;

  Words(const Codes& queries, const Codes& gallery, uint64_t seed) : words(padded_words(queries.bytes)) {
    q = pad(queries, 1, words, seed);
    g = pad(gallery, gallery.count, 1, seed);
  }

 private:
  std::vector<uint64_t> pad(const Codes& codes, int64_t word_stride, int64_t row_stride, uint64_t seed) {
    std::vector<uint64_t> out = scratch<uint64_t>(codes.count * words, seed);
    launch(seed, pad_words, ceil_div(codes.count * words, kCodeThreads), kCodeThreads, 0, codes.row(0), codes.count, codes.bytes, words, word_stride,
           row_stride, out.data());
    return out;
  }
};

// few and limit are what hamming.cu takes as given, so that tests reach every kind of kernel.
struct Form {
  bool few;
  size_t limit = kCounterBytes;
};

template <class Answer>
void launch_select(const Codes& q, const Codes& g, int64_t k, const Answer& answer, Form form, uint64_t seed) {
  const Words words(q, g, seed);
  const SelectPlan plan = select_plan(q.count, q.bytes, form.few, form.limit);
  std::vector<uint32_t> room = scratch<uint32_t>(plan.scratch, seed);
  plan.with_shape([&](auto shape) {
    launch(seed, hamming_select<decltype(shape), Answer>, plan.blocks, plan.warps * kWarp, plan.shared, words.q.data(), words.g.data(), q.count,
           g.count, words.words, 8 * q.bytes + 1, k, room.data(), answer);
  });
}

struct Nearest {
  std::vector<int32_t> distance;  // [Q, k]
  std::vector<int64_t> index;     // [Q, k]
};

inline Nearest launch_topk(const Codes& q, const Codes& g, int64_t k, Form form, uint64_t seed) {
  Nearest out{scratch<int32_t>(q.count * k, seed), scratch<int64_t>(q.count * k, seed)};
  if (k > 0) launch_select(q, g, k, NearestAnswer{out.distance.data(), out.index.data()}, form, seed);
  return out;
}

inline std::vector<int32_t> launch_rank(const Codes& q, const Codes& g, Form form, uint64_t seed) {
  std::vector<int32_t> out = scratch<int32_t>(q.count * g.count, seed);
  launch_select(q, g, g.count, RankAnswer{out.data()}, form, seed);
  return out;
}

inline std::vector<int32_t> launch_distance(const Codes& q, const Codes& g, uint64_t seed) {
  std::vector<int32_t> out = scratch<int32_t>(q.count * g.count, seed);
  const Words words(q, g, seed);
  with_words<4>(words.words, [&](auto shape) {
    using Shape = decltype(shape);
    const int64_t blocks = ceil_div(g.count, kCodeThreads) * ceil_div(q.count, Shape::queries);
    launch(seed, hamming_distances<Shape>, blocks, kCodeThreads, 0, words.q.data(), words.g.data(), q.count, g.count, words.words, out.data());
  });
  return out;
}

inline std::vector<int32_t> launch_hamming_relevant(const Codes& q, const Codes& g, const Classes& classes, Form form, uint64_t seed) {
  const DeviceClasses relevant(classes, seed);
  std::vector<int32_t> out = scratch<int32_t>(kCounts * relevant.total, seed);
  if (relevant.total == 0) return out;
  const Words words(q, g, seed);
  const RelevantPlan plan = relevant_plan(q.count, q.bytes, form.few, form.limit);
  std::vector<uint32_t> room = scratch<uint32_t>(plan.scratch, seed);
  plan.with_shape([&](auto shape) {
    launch(seed, hamming_relevant<decltype(shape)>, plan.blocks, plan.warps * kWarp, plan.shared, words.q.data(), words.g.data(),
           relevant.device(classes), q.count, g.count, words.words, 8 * q.bytes + 1, room.data(), relevant.total, out.data());
  });
  return out;
}

inline Bytes launch_pack(const Bytes& bits, int64_t rows, int64_t b, uint64_t seed) {
  const int64_t bytes = ceil_div(b, 8);
  Bytes codes = scratch<uint8_t>(rows * bytes, seed);
  launch(seed, pack_rows, ceil_div(rows * bytes, kCodeThreads), kCodeThreads, 0, bits.data(), rows, b, bytes, codes.data());
  return codes;
}

inline Bytes launch_unpack(const Bytes& codes, int64_t rows, int64_t b, uint64_t seed) {
  Bytes bits = scratch<uint8_t>(rows * b, seed);
  launch(seed, unpack_rows, ceil_div(rows * b, kCodeThreads), kCodeThreads, 0, codes.data(), rows, b, ceil_div(b, 8), bits.data());
  return bits;
}

}  // namespace zsml::cuda::test
