// Nearest codes and whole rankings by counting, in one launch: the distances are never stored.
//
// A block takes a few queries through the whole gallery twice. First it counts the codes at each distance; running sums of the
// counts, by distance and then by warp, are places in the answer. Then every code goes to the next place of its distance. A warp
// walks its own stretch of the gallery in order with places of its own, and the 32 codes it looks at are ordered among equals by
// who matches whom: so ties come out by index, no matter how warps are scheduled. Only codes within the radius, the distance of
// the k-th nearest, take part the second time.
//
// Floors: two popcounts per pair of 64-bit codes and pass; 4 bytes written per pair for a whole ranking.
// Ladder (numbers belong to bench/results; none is claimed here before a GPU has run it):
//   v1  recompute the distances in the second pass; per-warp counters in shared memory; 4 queries share each code read
//       up to 512 bits, so that L2 keeps up with the popcounts; __match_any_sync among 32 codes.  <- shipped
//   next, once measured:
//     - top-k: an eighth of the gallery bounds the radius first, so that the rest is compared but hardly counted;
//     - keep a row of distances as bytes in shared memory where it fits, against popcounts; votes per bit or atomic or, against match;
//     - ranking: collect the row of indices in shared memory and write it in one piece;
//     - 512 bits: a carry-save adder before the popcounts (16 words to 11), or 1-bit tensor-core products and stored popcounts;
//     - few queries, long gallery: several blocks per query with counts in global memory.
#pragma once

#include "hamming.cuh"

namespace zsml::cuda {

// Where an answer goes: place `at` of the result, distance, gallery row.
struct RankAnswer {
  int32_t* index;  // [Q, N]
  __device__ void put(int64_t at, int, int64_t j) const { index[at] = static_cast<int32_t>(j); }
};
struct NearestAnswer {
  int32_t* distance;  // [Q, k]
  int64_t* index;     // [Q, k]
  __device__ void put(int64_t at, int d, int64_t j) const { distance[at] = d, index[at] = j; }
};

using SelectPlan = CountPlan<4>;
inline SelectPlan select_plan(int64_t queries, int64_t bytes, bool few, size_t limit = kCounterBytes) {
  return SelectPlan(queries, padded_words(bytes), 8 * bytes + 1, [](int64_t warps) { return warps; }, few, limit);
}

template <class Shape, class Answer>
__global__ void __launch_bounds__(Shape::words ? kCodeThreads : 1024)
    hamming_select(const uint64_t* __restrict__ q,  // [Q, words]
                   const uint64_t* __restrict__ g,  // [words, N]
                   int64_t queries, int64_t codes, int64_t words, int64_t bins, int64_t k, uint32_t* scratch, Answer answer) {
  constexpr int Queries = Shape::queries;
  extern __shared__ uint32_t counters[];
  __shared__ int radius[Queries];
  const int64_t warps = blockDim.x / kWarp, per_query = warps * bins;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  uint32_t* const block_count = block_counters<Shape>(counters, scratch, Queries * per_query);  // [Queries, warps, bins]
  uint32_t* const count = block_count + warp * bins;                                            // this warp's, of the first query
  const Segment own(codes);

  for (int64_t first = blockIdx.x * static_cast<int64_t>(Queries); first < queries; first += gridDim.x * static_cast<int64_t>(Queries)) {
    const QueryWords<Shape::words, Queries> query(q, queries, first, words);
    int distance[Queries];
    for (int64_t at = threadIdx.x; at < Queries * per_query; at += blockDim.x) block_count[at] = 0;
    __syncthreads();

    for (int64_t j = own.begin + lane; j < own.end; j += kWarp) {
      query.measure(g, codes, j, distance);
#pragma unroll
      for (int m = 0; m < Queries; ++m) atomicAdd(&count[m * per_query + distance[m]], 1u);
    }
    __syncthreads();

    if (warp < Queries)
      scan_counts(block_count + warp * per_query, warps, bins, [&](int64_t d, uint32_t before, uint32_t total) {
        if (before < k && k <= static_cast<int64_t>(before) + total) radius[warp] = static_cast<int>(d);  // true of one distance
      });
    __syncthreads();

    for (int64_t j0 = own.begin; j0 < own.end; j0 += kWarp) {
      const int64_t j = j0 + lane;
      query.measure(g, codes, j < own.end ? j : j0, distance);
#pragma unroll
      for (int m = 0; m < Queries; ++m) {
        const bool near = j < own.end && distance[m] <= radius[m];
        if (!__ballot_sync(kAllLanes, near)) continue;
        const unsigned equals = __match_any_sync(kAllLanes, near ? distance[m] : -1);
        uint32_t* const next = &count[m * per_query + distance[m]];
        const uint32_t place = near ? *next + lanes_below(equals) : 0;
        __syncwarp();
        if (near && is_highest(equals)) *next = place + 1;
        if (near && place < k && first + m < queries) answer.put((first + m) * k + place, distance[m], j);
        __syncwarp();
      }
    }
    __syncthreads();
  }
}

}  // namespace zsml::cuda
