// A tile of the product of two sets of rows, in the registers of one block.
//
// Every product is one chain of fused multiply-adds over k = 0, 1, ..., wherever the tile lies: equal rows give bit-equal
// products, which is what keeps ties ties.
#pragma once

#include <cstdint>

namespace zsml::cuda {

template <class T>
struct TileShape {  // 16 x 16 threads, each rows x cols products
  static constexpr int threads = 256;
  static constexpr int rows = sizeof(T) == 8 ? 4 : 8, cols = rows;
  static constexpr int height = 16 * rows, width = 16 * cols, step = 16;
};

// One step of the product: `step` columns of `extent` rows into shared memory, transposed, in the frame.
// finite is null where every row counts; a row that does not is taken for zeros.
template <class S, class T, int extent>
__device__ void load_tile(const S* __restrict__ rows, const uint8_t* __restrict__ finite, int64_t first, int64_t count, int64_t depth, int64_t k0,
                          T scale, const T* __restrict__ shift, T (*tile)[extent + 4]) {
  using Shape = TileShape<T>;
  const int k = threadIdx.x % Shape::step;
  for (int r = threadIdx.x / Shape::step; r < extent; r += Shape::threads / Shape::step) {
    const int64_t row = first + r;
    const bool inside = row < count && k0 + k < depth && (!finite || finite[row]);
    tile[k][r] = inside ? static_cast<T>(rows[row * depth + k0 + k]) * scale - shift[k0 + k] : T(0);
  }
}

// product[r][c] += the step's share for row ty rows + r of the first side and row tx + 16 c of the second.
template <class T, int height, int width>
__device__ void multiply_tiles(const T (*a_tile)[height], const T (*b_tile)[width], T (&product)[TileShape<T>::rows][TileShape<T>::cols]) {
  using Shape = TileShape<T>;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int k = 0; k < Shape::step; ++k) {
    T a[Shape::rows], b[Shape::cols];
#pragma unroll
    for (int r = 0; r < Shape::rows; ++r) a[r] = a_tile[k][ty * Shape::rows + r];
#pragma unroll
    for (int c = 0; c < Shape::cols; ++c) b[c] = b_tile[k][tx + 16 * c];
#pragma unroll
    for (int r = 0; r < Shape::rows; ++r)
#pragma unroll
      for (int c = 0; c < Shape::cols; ++c) product[r][c] += a[r] * b[c];
  }
}

}  // namespace zsml::cuda
