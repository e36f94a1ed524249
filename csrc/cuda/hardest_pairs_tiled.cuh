// hardest_pairs for large batches of float64, and of what hardest_pairs_mma.cuh does not cover: tiles of the product x refs^T in
// registers, reduced where they stand. Step v1 of the ladder that is kept there.
//
// Each thread multiplies 8 x 8 pairs (4 x 4 in float64) out of shared memory; row minima and maxima by half-warp shuffles; the
// candidates are split over the grid, so that few anchors still fill the device.
#pragma once

#include "hardest_pairs_finish.cuh"
#include "tile.cuh"

namespace zsml::cuda {

// What the tiles of one grid row found: value is |b|^2 - 2 a.b in the frame.
template <class T>
struct PartialWinners {
  T* value;        // [splits, 4, B]
  int64_t* index;  // [splits, 4, B]
  const T* norms;  // [B]
  int64_t anchors;
  int splits;

  __device__ T norm(int64_t i) const { return norms[i]; }

  // Equal rows have bit-equal products, so the values alone decide between the splits.
  __device__ Found<T> found(int role, int64_t i) const {
    Found<T> result{worst<T>(role), {-1, -1}};
    for (int s = 0; s < splits; ++s) {  // every lane the same: a handful of values, and no exchange needed
      const int64_t from = (s * static_cast<int64_t>(kRoles) + role) * anchors + i;
      if (beats(role, value[from], index[from], result.squared, result.index[0])) result.squared = value[from], result.index[0] = index[from];
    }
    result.squared += norms[i];
    return result;
  }
};

// grid (anchor tiles, splits): each block goes through its share of the candidate tiles for `height` anchors.
template <class S, class T>
__global__ void __launch_bounds__(TileShape<T>::threads)
    search_tiles(const S* __restrict__ x, const uint8_t* __restrict__ finite, const int64_t* __restrict__ labels,
                 const int64_t* __restrict__ modality, const S* __restrict__ refs, const uint8_t* __restrict__ ref_finite,
                 const T* __restrict__ ref_norm, const int64_t* __restrict__ ref_labels, const int64_t* __restrict__ ref_modality,
                 const int64_t* __restrict__ exclude, bool self, int64_t anchors, int64_t candidates, int64_t depth, const T* __restrict__ largest,
                 const T* __restrict__ shift, PartialWinners<T> out) {
  using Shape = TileShape<T>;
  __shared__ T a_tile[Shape::step][Shape::height + 4];
  __shared__ T b_tile[Shape::step][Shape::width + 4];
  __shared__ T b_norm[Shape::width];
  __shared__ int64_t b_label[Shape::width], b_modality[Shape::width];
  __shared__ T best_value[kRoles][Shape::height];
  __shared__ int64_t best_index[kRoles][Shape::height];

  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const int64_t first_anchor = blockIdx.x * static_cast<int64_t>(Shape::height);
  const T scale = frame_scale(*largest);
  for (int at = threadIdx.x; at < kRoles * Shape::height; at += Shape::threads) {
    best_value[at / Shape::height][at % Shape::height] = worst<T>(at / Shape::height);
    best_index[at / Shape::height][at % Shape::height] = -1;
  }
  const int64_t tiles = (candidates + Shape::width - 1) / Shape::width;
  const int64_t tile_begin = tiles * blockIdx.y / gridDim.y, tile_end = tiles * (blockIdx.y + 1) / gridDim.y;

  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t first = tile * Shape::width;
    for (int c = threadIdx.x; c < Shape::width; c += Shape::threads) {
      const bool inside = first + c < candidates;
      b_norm[c] = inside ? ref_norm[first + c] : static_cast<T>(NAN);  // NaN compares false: never chosen
      b_label[c] = inside ? ref_labels[first + c] : 0;
      b_modality[c] = inside ? ref_modality[first + c] : 0;
    }
    T product[Shape::rows][Shape::cols] = {};
    for (int64_t k0 = 0; k0 < depth; k0 += Shape::step) {
      load_tile<S, T, Shape::height>(x, finite, first_anchor, anchors, depth, k0, scale, shift, a_tile);
      load_tile<S, T, Shape::width>(refs, ref_finite, first, candidates, depth, k0, scale, shift, b_tile);
      __syncthreads();
      multiply_tiles(a_tile, b_tile, product);
      __syncthreads();
    }

    // The 16 threads of a half-warp hold one row of the tile between them. Columns ascend with c, so a strict comparison keeps
    // the lowest index within a thread; beats() settles ties between threads.
#pragma unroll
    for (int r = 0; r < Shape::rows; ++r) {
      const int row = ty * Shape::rows + r;
      const int64_t i = first_anchor + row;
      const bool live = i < anchors;
      const int64_t own_label = live ? labels[i] : 0, own_modality = live ? modality[i] : 0;
      const int64_t skipped = !live ? -1 : self ? i : exclude ? exclude[i] : -1;
      T best[kRoles];
      int64_t where[kRoles];
#pragma unroll
      for (int role = 0; role < kRoles; ++role) best[role] = worst<T>(role), where[role] = -1;
#pragma unroll
      for (int c = 0; c < Shape::cols; ++c) {
        const int column = tx + 16 * c;
        const T value = b_norm[column] - (product[r][c] + product[r][c]);
        const int own_role = role_of(b_label[column] == own_label, b_modality[column] == own_modality);
        const bool allowed = first + column != skipped;
#pragma unroll
        for (int role = 0; role < kRoles; ++role)
          if (allowed && role == own_role && beats(role, value, first + column, best[role], where[role]))
            best[role] = value, where[role] = first + column;
      }
#pragma unroll
      for (int role = 0; role < kRoles; ++role) {
        for (int step = 8; step > 0; step /= 2) {
          const T value = __shfl_xor_sync(kAllLanes, best[role], step);
          const int64_t j = __shfl_xor_sync(kAllLanes, where[role], step);
          if (beats(role, value, j, best[role], where[role])) best[role] = value, where[role] = j;
        }
        if (tx == 0 && beats(role, best[role], where[role], best_value[role][row], best_index[role][row]))
          best_value[role][row] = best[role], best_index[role][row] = where[role];
      }
    }
    __syncthreads();
  }

  for (int at = threadIdx.x; at < kRoles * Shape::height; at += Shape::threads) {
    const int role = at / Shape::height, row = at % Shape::height;
    if (first_anchor + row >= anchors) continue;
    const int64_t to = (blockIdx.y * static_cast<int64_t>(kRoles) + role) * anchors + first_anchor + row;
    out.value[to] = best_value[role][row];
    out.index[to] = best_index[role][row];
  }
}

}  // namespace zsml::cuda
