// Ranks of the relevant codes by counting: hamming_select.cuh with two kinds of codes, of which only the relevant are answered.
//
// A block takes a few queries through the gallery twice. First it counts relevant and other codes at each distance; running sums
// are the places of the relevant and the numbers of nearer others. The second time every relevant code takes its place, and the
// others at its distance that have gone by are those before it in the order of the gallery.
//
// Floor: the popcounts of two passes; 12 bytes written per relevant code.
// Ladder (numbers belong to bench/results; none is claimed here before a GPU has run it):
//   v1  one match among 32 codes, left out where none of them is relevant.  <- shipped
//   next, once measured: what hamming_select.cuh lists; and to pass over groups of 32 none of which is as near as the farthest relevant.
#pragma once

#include "hamming.cuh"
#include "rank_relevant.cuh"

namespace zsml::cuda {

// Per query and distance: others and relevant of each warp, then all nearer others and all others at this distance.
inline __host__ __device__ int64_t relevant_rows(int64_t warps) { return 2 * warps + 2; }

using RelevantPlan = CountPlan<2>;
inline RelevantPlan relevant_plan(int64_t queries, int64_t bytes, bool few, size_t limit = kCounterBytes) {
  return RelevantPlan(queries, padded_words(bytes), 8 * bytes + 1, relevant_rows, few, limit);
}

template <class Shape>
__global__ void __launch_bounds__(Shape::words ? kCodeThreads : 1024)
    hamming_relevant(const uint64_t* __restrict__ q,  // [Q, words]
                     const uint64_t* __restrict__ g,  // [words, N]
                     Relevant of, int64_t queries, int64_t codes, int64_t words, int64_t bins, uint32_t* scratch, int64_t total,
                     int32_t* __restrict__ out) {  // [3, T]
  constexpr int Queries = Shape::queries;
  extern __shared__ uint32_t counters[];
  const int64_t warps = blockDim.x / kWarp, per_query = relevant_rows(warps) * bins;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  uint32_t* const block_count = block_counters<Shape>(counters, scratch, Queries * per_query);  // [Queries, 2 warps + 2, bins]
  const Segment own(codes);

  for (int64_t first = blockIdx.x * static_cast<int64_t>(Queries); first < queries; first += gridDim.x * static_cast<int64_t>(Queries)) {
    const QueryWords<Shape::words, Queries> query(q, queries, first, words);
    int distance[Queries];
    int64_t wanted[Queries];
#pragma unroll
    for (int m = 0; m < Queries; ++m) wanted[m] = of.query_class[first + m < queries ? first + m : queries - 1];
    for (int64_t at = threadIdx.x; at < Queries * per_query; at += blockDim.x) block_count[at] = 0;
    __syncthreads();

    for (int64_t j = own.begin + lane; j < own.end; j += kWarp) {
      query.measure(g, codes, j, distance);
      const int own_class = of.class_of[j];
#pragma unroll
      for (int m = 0; m < Queries; ++m)
        atomicAdd(&block_count[m * per_query + (warp + (own_class == wanted[m] ? warps : 0)) * bins + distance[m]], 1u);
    }
    __syncthreads();

    if (warp < Queries) {
      uint32_t* const others = block_count + warp * per_query;
      uint32_t* const nearer = others + 2 * warps * bins;
      scan_counts(others, warps, bins, [&](int64_t d, uint32_t before, uint32_t tied) { nearer[d] = before, nearer[bins + d] = tied; });
      scan_counts(others + warps * bins, warps, bins, [](int64_t, uint32_t, uint32_t) {});
    }
    __syncthreads();

    for (int64_t j0 = own.begin; j0 < own.end; j0 += kWarp) {
      const int64_t j = j0 + lane;
      const bool live = j < own.end;
      query.measure(g, codes, live ? j : j0, distance);
      const int own_class = of.class_of[live ? j : j0];
#pragma unroll
      for (int m = 0; m < Queries; ++m) {
        const bool relevant = live && own_class == wanted[m];
        const unsigned relevant_lanes = __ballot_sync(kAllLanes, relevant);
        uint32_t* const others = &block_count[m * per_query + warp * bins + distance[m]];  // of this warp, at this distance
        uint32_t* const next = others + warps * bins;
        if (!relevant_lanes) {
          if (live) atomicAdd(others, 1u);
        } else {
          const unsigned equals = __match_any_sync(kAllLanes, live ? distance[m] : -1);
          const unsigned own_kind = equals & (relevant ? relevant_lanes : ~relevant_lanes);
          const uint32_t gone_by = *others + lanes_below(equals & ~relevant_lanes);
          const uint32_t place = *next + lanes_below(own_kind);
          __syncwarp();
          if (live && is_highest(own_kind)) *(relevant ? next : others) = relevant ? place + 1 : gone_by + 1;
          if (relevant && first + m < queries) {
            const uint32_t* const nearer = &block_count[m * per_query + 2 * warps * bins + distance[m]];
            const int64_t at = of.first[first + m] + place;
            out[kNearer * total + at] = static_cast<int32_t>(*nearer);
            out[kTiedBefore * total + at] = static_cast<int32_t>(gone_by - *nearer);
            out[kTied * total + at] = static_cast<int32_t>(nearer[bins]);
          }
        }
        __syncwarp();
      }
    }
    __syncthreads();
  }
}

}  // namespace zsml::cuda
