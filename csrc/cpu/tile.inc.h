// The register tile: a small block of the product A B^T held in vector registers. Included once per instruction set
// (see foreach_isa.h). Packed product routines reach about 30 % (MKL on AMD) to 45 % (OpenBLAS) of the arithmetic roof on
// the machines this was written on; this tile reaches over 80 %, and lets a reduction start while the products are still in registers.
//
// Both operands come packed: panel p of A holds rows p * rows .. as [k][rows], of B as [k][cols], so that the inner loop reads
// memory in order. Every element of the product is one chain of fused multiply-adds over k = 0, 1, ..., whatever the tile's
// position: equal rows give bit-equal products, which is what keeps ties ties.

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias));
  typedef int32_t ints __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias));
  typedef int64_t ints __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias));
};

template <class T>
struct Tile {
  using Vector = typename VectorOf<T>::type;
  using Ints = typename VectorOf<T>::ints;  // lane-wise integers; also what a comparison of Vectors yields
  static constexpr int lanes = ZSML_VECTOR_BYTES / sizeof(T);
  static constexpr int vectors = 2;  // vectors side by side in a row of the tile
  static constexpr int cols = vectors * lanes;
  // Accumulators rows x 2, plus two vectors of B, plus one broadcast where it cannot be a memory operand.
  static constexpr int rows = ZSML_VECTOR_REGISTERS == 32 ? 14 : 6;

  // a: [depth, rows], packed; b: [depth, cols], packed and aligned to ZSML_VECTOR_BYTES
  static inline __attribute__((always_inline)) void multiply(const T* __restrict a, const T* __restrict b, int64_t depth,
                                                             Vector (&product)[rows][vectors]) {
    Vector sum[rows][vectors] = {};
    for (int64_t k = 0; k < depth; ++k) {
      const Vector b0 = *reinterpret_cast<const Vector*>(b);
      const Vector b1 = *reinterpret_cast<const Vector*>(b + lanes);
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i) {
        sum[i][0] += a[i] * b0;
        sum[i][1] += a[i] * b1;
      }
      a += rows;
      b += cols;
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i) {
      product[i][0] = sum[i][0];
      product[i][1] = sum[i][1];
    }
  }

  // product[rows, cols] += a b with a as it lies, its element (i, k) at i * row + k * step, and b [depth, cols] packed: one chain of
  // multiply-adds too, however many calls it is spread over. product and b aligned to ZSML_VECTOR_BYTES.
  template <int64_t row, int64_t step>
  static inline __attribute__((always_inline)) void accumulate(const T* __restrict a, const T* __restrict b, int64_t depth, T* __restrict product) {
    Vector sum[rows][vectors];
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i) {
      sum[i][0] = *reinterpret_cast<const Vector*>(product + i * cols);
      sum[i][1] = *reinterpret_cast<const Vector*>(product + i * cols + lanes);
    }
    for (int64_t k = 0; k < depth; ++k) {
      const Vector b0 = *reinterpret_cast<const Vector*>(b);
      const Vector b1 = *reinterpret_cast<const Vector*>(b + lanes);
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i) {
        sum[i][0] += a[i * row] * b0;
        sum[i][1] += a[i * row] * b1;
      }
      a += step;
      b += cols;
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i) {
      *reinterpret_cast<Vector*>(product + i * cols) = sum[i][0];
      *reinterpret_cast<Vector*>(product + i * cols + lanes) = sum[i][1];
    }
  }
};
