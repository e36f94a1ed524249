// Packed codes on the CPU: distances of a few queries to many codes, and counting and picking among the distances. Every
// instruction-set variant behind one table of functions; no torch here, so that tests and micro-benchmarks reach each of them.
#pragma once

#include <cstdint>

#include "isa.h"

namespace zsml::cpu {

constexpr int64_t kBlock = 64;     // codes of a packed block
constexpr int kQueriesAtOnce = 4;  // queries that share each load of the gallery

// Distances are kept in the narrowest type that holds 8 W and leaves its largest value free: it marks places beyond the gallery.
template <class D>
struct CodesKernel {
  // Codes [count, width] to packed blocks [ceil(count / 64)][words_of(width)][512 bytes], in this variant's own order.
  void (*pack)(const uint8_t* codes, int64_t width, int64_t count, uint8_t* packed);

  // out[q, j] for 4 queries [4, words] and all codes of `blocks` packed blocks; rows of `out` are `stride` apart, aligned to 64 bytes.
  void (*distances)(const uint8_t* packed, int64_t blocks, int64_t words, const uint64_t* queries, D* out, int64_t stride);

  // out[j] for one query [words] and codes [count, width] as they are.
  void (*row_distances)(const uint8_t* codes, int64_t width, int64_t count, const uint64_t* query, D* out);

  // How many of row[0 .. count) are at most `limit`; count is a multiple of 64.
  int64_t (*count_at_most)(const D* row, int64_t count, D limit);

  // The places j with row[j] <= limit, in ascending order; `index` needs room for as many. Returns how many.
  int64_t (*collect)(const D* row, int64_t count, D limit, int32_t* index);
};

template <class D>
const CodesKernel<D>& codes_kernel(Isa isa);

}  // namespace zsml::cpu
