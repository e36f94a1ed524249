// Binary codes: distances, nearest codes, whole rankings, and the ranks of the relevant codes alone.
//
//   d(i, j) = sum_w popcount(q[i, w] xor g[j, w])                        q [Q, W], g [N, W]  uint8
//
//   hamming_distance          int32 [Q, N]                   d
//   hamming_topk              int32 [Q, k], int64 [Q, k]     the k smallest (d, j) in ascending order, and their j
//   hamming_rank              int32 [Q, N]                   all j by ascending (d, j)
//   hamming_rank_relevant     int32 [3, T]                   see rank_relevant.h
//
// A distance is an integer from 0 to 8 W, so nothing is ever compared twice: codes are counted per distance, and an order is
// written from the counts (counting sort). No torch here.
#pragma once

#include <cstdint>

namespace zsml {

// Bytes of a code rounded up to whole words; the bytes in between are zero on both sides and add nothing.
constexpr int64_t words_of(int64_t bytes) { return (bytes + 7) / 8; }

}  // namespace zsml
