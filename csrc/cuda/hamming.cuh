// Binary codes on the device: words laid out for coalesced reading, distances of several queries at once, bits in and out.
//
// Codes come as bytes of any width at any address. They are copied once into 64-bit words, zeros after the last byte: a query's
// words side by side, the gallery's as planes, word w of code j at [w, j], so that a warp reads 32 codes in one piece whatever the
// width. Codes of up to 8 words have kernels of their own with the queries' words in registers (3 words count as 4, 5 to 7 as 8);
// wider ones, and few queries, take the general kernels: Words = 0.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../hamming.h"
#include "warp.cuh"

namespace zsml::cuda {

constexpr int kCodeThreads = 256;

// Words a code of this many bytes has after padding.
inline int64_t padded_words(int64_t bytes) {
  const int64_t words = words_of(bytes);
  return words <= 2 || words > 8 ? words : words <= 4 ? 4 : 8;
}

// codes [rows, bytes] -> words: word w of row r at out[w * word_stride + r * row_stride]. One thread per word.
static __global__ void __launch_bounds__(kCodeThreads) pad_words(const uint8_t* __restrict__ codes, int64_t rows, int64_t bytes, int64_t words,
                                                                 int64_t word_stride, int64_t row_stride, uint64_t* __restrict__ out) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kCodeThreads) + threadIdx.x;
  if (at >= rows * words) return;
  const int64_t w = at / rows, r = at % rows;
  uint64_t word = 0;
  for (int64_t b = 8 * w; b < 8 * w + 8 && b < bytes; ++b) word |= static_cast<uint64_t>(codes[r * bytes + b]) << 8 * (b - 8 * w);
  out[w * word_stride + r * row_stride] = word;
}

// Queries first, first + 1, ... of q [Q, Words]; those past the end repeat the last one, and whoever writes must leave them out.
template <int Words, int Queries>
struct QueryWords {
  uint64_t word[Queries][Words];

  __device__ QueryWords(const uint64_t* __restrict__ q, int64_t queries, int64_t first, int64_t) {
#pragma unroll
    for (int m = 0; m < Queries; ++m)
#pragma unroll
      for (int w = 0; w < Words; ++w) word[m][w] = q[(first + m < queries ? first + m : queries - 1) * Words + w];
  }

  // The distances to code j of g [Words, N].
  __device__ void measure(const uint64_t* __restrict__ g, int64_t codes, int64_t j, int (&distance)[Queries]) const {
#pragma unroll
    for (int m = 0; m < Queries; ++m) distance[m] = 0;
#pragma unroll
    for (int w = 0; w < Words; ++w) {
      const uint64_t code = g[w * codes + j];
#pragma unroll
      for (int m = 0; m < Queries; ++m) distance[m] += __popcll(code ^ word[m][w]);
    }
  }
};

template <>
struct QueryWords<0, 1> {  // any number of words, read where they lie: all threads of a block read the same ones
  const uint64_t* __restrict__ word;
  int64_t words;

  __device__ QueryWords(const uint64_t* __restrict__ q, int64_t, int64_t first, int64_t words) : word(q + first * words), words(words) {}

  __device__ void measure(const uint64_t* __restrict__ g, int64_t codes, int64_t j, int (&distance)[1]) const {
    distance[0] = 0;
    for (int64_t w = 0; w < words; ++w) distance[0] += __popcll(g[w * codes + j] ^ word[w]);
  }
};

// How a kernel is instantiated: words per code or 0 for any number, queries a block takes at a time, where it counts.
template <int Words_, int Queries_, bool Shared_>
struct CodeShape {
  static constexpr int words = Words_, queries = Queries_;
  static constexpr bool shared = Shared_;  // counters in shared memory, not in global scratch
};

template <int WideQueries, class Body>
void with_words(int64_t words, const Body& body) {
  if (words == 1) return body(CodeShape<1, 4, true>{});
  if (words == 2) return body(CodeShape<2, 4, true>{});
  if (words == 4) return body(CodeShape<4, WideQueries, true>{});
  if (words == 8) return body(CodeShape<8, WideQueries, true>{});
  body(CodeShape<0, 1, true>{});
}

// All pairs. Bound by writing Q N int32; each block takes 256 codes and a few queries, so it reads little besides.
template <class Shape>
__global__ void __launch_bounds__(kCodeThreads) hamming_distances(const uint64_t* __restrict__ q, const uint64_t* __restrict__ g, int64_t queries,
                                                                  int64_t codes, int64_t words, int32_t* __restrict__ out) {
  const int64_t tiles = (codes + kCodeThreads - 1) / kCodeThreads;
  const int64_t first = blockIdx.x / tiles * Shape::queries, j = blockIdx.x % tiles * kCodeThreads + threadIdx.x;
  if (j >= codes) return;
  const QueryWords<Shape::words, Shape::queries> query(q, queries, first, words);
  int distance[Shape::queries];
  query.measure(g, codes, j, distance);
#pragma unroll
  for (int m = 0; m < Shape::queries; ++m)
    if (first + m < queries) out[(first + m) * codes + j] = distance[m];
}

// ---- counting -------------------------------------------------------------------------------------------------------------------

constexpr size_t kCounterBytes = 47 << 10;            // of the 48 KB of shared memory that every device gives without being asked
constexpr int64_t kScratchBytes = int64_t{64} << 20;  // where the counters do not fit: for all blocks together, but for one at least
constexpr int64_t kFewQueries = 512;                  // fewer: one to a block, and more warps for it

// How queries and counters are shared out over blocks. A query has rows_of(warps) counters for every distance 0 ... 8 W.
// WideQueries: queries a block takes at a time where codes have 4 or 8 words; 4 where they have fewer, 1 for the general kernels.
template <int WideQueries>
struct CountPlan {
  int64_t words;    // the shape's
  int64_t queries;  // the shape's
  int64_t warps;
  int64_t blocks;
  size_t shared;    // bytes; 0 where the counters are in scratch
  int64_t scratch;  // counters there

  template <class Rows>
  CountPlan(int64_t count, int64_t padded, int64_t bins, const Rows& rows_of, bool few, size_t limit = kCounterBytes) {
    const auto bytes = [&] { return static_cast<size_t>(queries * rows_of(warps) * bins) * sizeof(uint32_t); };
    words = few || padded > 8 ? 0 : padded;
    queries = words == 0 ? 1 : words <= 2 ? 4 : WideQueries;
    warps = few ? 32 : words == 8 ? 4 : 8;
    while (few && warps > 8 && bytes() > limit) warps /= 2;
    if (bytes() > limit) words = 0, queries = 1;
    shared = bytes() > limit ? 0 : bytes();
    blocks = std::min<int64_t>((count + queries - 1) / queries, INT32_MAX);
    if (!shared) blocks = std::clamp<int64_t>(kScratchBytes / static_cast<int64_t>(bytes()), 1, blocks);
    scratch = shared ? 0 : blocks * static_cast<int64_t>(bytes() / sizeof(uint32_t));
  }

  template <class Body>  // calls body with the CodeShape
  void with_shape(const Body& body) const {
    if (words == 0 && !shared) return body(CodeShape<0, 1, false>{});
    with_words<WideQueries>(words, body);
  }
};

// The counters of this block: dynamic shared memory or its part of scratch.
template <class Shape>
__device__ uint32_t* block_counters(uint32_t* shared, uint32_t* scratch, int64_t per_block) {
  if constexpr (Shape::shared)
    return shared;
  else
    return scratch + blockIdx.x * per_block;
}

// The codes a warp is responsible for: contiguous, in whole groups of 32 but for the last.
struct Segment {
  int64_t begin, end;
  __device__ explicit Segment(int64_t codes) {
    const int64_t groups = (codes + kWarp - 1) / kWarp, warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp;
    begin = groups * warp / warps * kWarp, end = groups * (warp + 1) / warps * kWarp;
    if (end > codes) end = codes;
  }
};

// One warp turns counts [warps, bins] into places: count[w, d] becomes the number of codes before the first code of warp w at
// distance d, by (d, w). each(d, before, total) is told of every distance.
template <class Each>
__device__ void scan_counts(uint32_t* count, int64_t warps, int64_t bins, const Each& each) {
  const int lane = threadIdx.x % kWarp;
  uint32_t before = 0;
  for (int64_t d0 = 0; d0 < bins; d0 += kWarp) {
    const int64_t d = d0 + lane;
    uint32_t total = 0;
    if (d < bins)
      for (int64_t w = 0; w < warps; ++w) total += count[w * bins + d];
    uint32_t upto = total;
    for (int step = 1; step < kWarp; step *= 2) {
      const uint32_t lower = __shfl_up_sync(kAllLanes, upto, step);
      if (lane >= step) upto += lower;
    }
    if (d < bins) {
      uint32_t place = before + upto - total;
      each(d, place, total);
      for (int64_t w = 0; w < warps; ++w) {
        const uint32_t own = count[w * bins + d];
        count[w * bins + d] = place;
        place += own;
      }
    }
    before += __shfl_sync(kAllLanes, upto, kWarp - 1);
  }
}

// Lanes below this one among `lanes`.
inline __device__ int lanes_below(unsigned lanes) { return __popc(lanes & ((1u << threadIdx.x % kWarp) - 1)); }
inline __device__ bool is_highest(unsigned lanes) { return lanes >> threadIdx.x % kWarp == 1; }

// ---- bits -----------------------------------------------------------------------------------------------------------------------

// bits [rows, count] -> codes [rows, bytes], the first bit lowest. One thread per byte.
static __global__ void __launch_bounds__(kCodeThreads)
    pack_rows(const uint8_t* __restrict__ bits, int64_t rows, int64_t count, int64_t bytes, uint8_t* __restrict__ codes) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kCodeThreads) + threadIdx.x;
  if (at >= rows * bytes) return;
  const int64_t r = at / bytes, first = at % bytes * 8;
  unsigned byte = 0;
  for (int64_t k = first; k < first + 8 && k < count; ++k) byte |= static_cast<unsigned>(bits[r * count + k] != 0) << (k - first);
  codes[at] = static_cast<uint8_t>(byte);
}

// The way back. One thread per bit.
static __global__ void __launch_bounds__(kCodeThreads)
    unpack_rows(const uint8_t* __restrict__ codes, int64_t rows, int64_t count, int64_t bytes, uint8_t* __restrict__ bits) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kCodeThreads) + threadIdx.x;
  if (at >= rows * count) return;
  const int64_t r = at / count, k = at % count;
  bits[at] = codes[r * bytes + k / 8] >> k % 8 & 1;
}

}  // namespace zsml::cuda
