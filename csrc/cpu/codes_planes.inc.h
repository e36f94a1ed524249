// The body of codes.h for instruction sets without a vector popcount: byte planes. A packed block holds byte w of its 64 codes side
// by side, so that a vector of bytes counts the bits of as many codes at once. Included once per instruction set (see foreach_isa.h).

#include "codes_rows.inc.h"

typedef uint8_t Bytes __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias));

static inline __attribute__((always_inline)) Bytes popcount_bytes(Bytes x) {
#if ZSML_VECTOR_BYTES == 64
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i low = _mm512_and_si512((__m512i)x, nibble), high = _mm512_and_si512(_mm512_srli_epi16((__m512i)x, 4), nibble);
  return (Bytes)_mm512_add_epi8(_mm512_shuffle_epi8(table, low), _mm512_shuffle_epi8(table, high));
#elif ZSML_VECTOR_BYTES == 32
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256((__m256i)x, nibble), high = _mm256_and_si256(_mm256_srli_epi16((__m256i)x, 4), nibble);
  return (Bytes)_mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
#else
  x = x - ((x >> 1) & 0x55);
  x = (x & 0x33) + ((x >> 2) & 0x33);
  return (x + (x >> 4)) & 0x0f;
#endif
}

static void pack_codes(const uint8_t* codes, int64_t width, int64_t count, uint8_t* packed) {
  const int64_t bytes = words_of(width) * 8;
  for (int64_t first = 0; first < count; first += kBlock, packed += bytes * kBlock) {
    __builtin_memset(packed, 0, static_cast<size_t>(bytes * kBlock));
    const int64_t here = count - first < kBlock ? count - first : kBlock;
    for (int64_t j = 0; j < here; ++j)
      for (int64_t w = 0; w < width; ++w) packed[w * kBlock + j] = codes[(first + j) * width + w];
  }
}

template <class D>
void code_distances(const uint8_t* packed, int64_t blocks, int64_t words, const uint64_t* queries, D* out, int64_t stride) {
  constexpr int vectors = kBlock / ZSML_VECTOR_BYTES;
  constexpr int64_t most = 31;  // bytes of a code whose counts fit one byte
  for (int64_t b = 0; b < blocks; ++b, packed += words * 8 * kBlock)
    for (int q = 0; q < kQueriesAtOnce; ++q) {
      const auto* query = reinterpret_cast<const uint8_t*>(queries + q * words);
      D* row = out + q * stride + b * kBlock;
      for (int64_t first = 0; first < words * 8; first += most) {
        const int64_t last = first + most < words * 8 ? first + most : words * 8;
        Bytes sum[vectors] = {};
        for (int64_t w = first; w < last; ++w) {
          const auto* plane = reinterpret_cast<const Bytes*>(packed + w * kBlock);
          for (int v = 0; v < vectors; ++v) sum[v] += popcount_bytes(plane[v] ^ query[w]);
        }
        const auto* counts = reinterpret_cast<const uint8_t*>(sum);
        for (int64_t j = 0; j < kBlock; ++j) row[j] = static_cast<D>((first ? row[j] : 0) + counts[j]);
      }
    }
}

template <class D>
int64_t count_at_most(const D* row, int64_t count, D limit) {
  int64_t total = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    uint8_t hits = 0;  // at most 64: fits, and a byte wide sum is what vectorises best
    for (int64_t j = 0; j < kBlock; ++j) hits = static_cast<uint8_t>(hits + (row[first + j] <= limit));
    total += hits;
  }
  return total;
}

template <class D>
int64_t collect(const D* row, int64_t count, D limit, int32_t* index) {
  int64_t found = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    uint8_t any = 0;
    for (int64_t j = 0; j < kBlock; ++j) any = static_cast<uint8_t>(any | (row[first + j] <= limit));
    if (!any) continue;
    for (int64_t j = first; j < first + kBlock; ++j)
      if (row[j] <= limit) index[found++] = static_cast<int32_t>(j);
  }
  return found;
}

template <class D>
const CodesKernel<D>& codes() {
  static const CodesKernel<D> k{&pack_codes, &code_distances<D>, &row_distances<D>, &count_at_most<D>, &collect<D>};
  return k;
}

template const CodesKernel<uint8_t>& codes<uint8_t>();
template const CodesKernel<uint16_t>& codes<uint16_t>();
template const CodesKernel<uint32_t>& codes<uint32_t>();
