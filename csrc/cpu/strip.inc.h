// The body of strip.h, included once per instruction set (see foreach_isa.h).
#include "tile.inc.h"

template <class T>
void strip_values(const T* queries, int64_t query_panels, const T* gallery, int64_t gallery_panels, int64_t depth, const T* offset, const T* factor,
                  T* value, int64_t stride) {
  using Tile = Tile<T>;
  using Vector = typename Tile::Vector;
  typedef T Unaligned __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias, aligned(sizeof(T))));
  for (int64_t p = 0; p < gallery_panels; ++p)
    for (int64_t q = 0; q < query_panels; ++q) {
      Vector product[Tile::rows][Tile::vectors];
      Tile::multiply(queries + q * Tile::rows * depth, gallery + p * Tile::cols * depth, depth, product);
#pragma GCC unroll 2
      for (int v = 0; v < Tile::vectors; ++v) {
        const int64_t j = p * Tile::cols + v * Tile::lanes;
        const Vector plus = *reinterpret_cast<const Vector*>(offset + j), times = *reinterpret_cast<const Vector*>(factor + j);
#pragma GCC unroll 14
        for (int r = 0; r < Tile::rows; ++r) *reinterpret_cast<Unaligned*>(value + (q * Tile::rows + r) * stride + j) = plus + times * product[r][v];
      }
    }
}

template <class T>
void strip_bins(const T* value, int64_t count, T low, T scale, int32_t last, int32_t* bin) {
  const T most = static_cast<T>(last);
  for (int64_t j = 0; j < count; ++j) {
    T at = (value[j] - low) * scale;
    at = at > T(0) ? at : T(0);
    at = at < most ? at : most;
    bin[j] = static_cast<int32_t>(at);
  }
}

template <class T>
int64_t strip_keep(const T* value, int64_t count, T high, T low, T scale, int32_t last, T* kept, int32_t* bin, int32_t* place, T& least) {
  int64_t found = 0, j = 0;
#if ZSML_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    const __m512 most = _mm512_set1_ps(high);
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 smallest = _mm512_set1_ps(least);
    for (; j + 16 <= count; j += 16, places = _mm512_add_epi32(places, _mm512_set1_epi32(16))) {
      const __m512 v = _mm512_loadu_ps(value + j);
      smallest = _mm512_min_ps(smallest, v);
      const __mmask16 in = _mm512_cmp_ps_mask(v, most, _CMP_LE_OQ);
      _mm512_storeu_ps(kept + found, _mm512_maskz_compress_ps(in, v));
      _mm512_storeu_si512(place + found, _mm512_maskz_compress_epi32(in, places));
      found += __builtin_popcount(in);
    }
    least = _mm512_reduce_min_ps(smallest);
  }
#endif
  for (; j < count; ++j) {
    kept[found] = value[j];
    place[found] = static_cast<int32_t>(j);
    found += value[j] <= high;
    least = value[j] < least ? value[j] : least;
  }
  strip_bins(kept, found, low, scale, last, bin);
  return found;
}

template <class T>
const StripKernel<T>& strip() {
  static const StripKernel<T> k{Tile<T>::rows, Tile<T>::cols, &strip_values<T>, &strip_bins<T>, &strip_keep<T>};
  return k;
}

template const StripKernel<float>& strip<float>();
template const StripKernel<double>& strip<double>();
