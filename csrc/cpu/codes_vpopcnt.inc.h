// The body of codes.h with AVX-512's vector popcount: 8 words per instruction. Included by codes.cpp.
//
// A distance sits in a 64-bit lane, but is kept in sizeof(D) bytes: lane_codes = 8 / sizeof(D) vectors of distances are shifted into
// one another. The codes of a block are packed in the order that makes the result come out in the order of the codes: word w of
// vector v, lane l belongs to code 8 lane_codes (v / lane_codes) + lane_codes l + v % lane_codes.

#include "codes_rows.inc.h"

using Vector = __m512i;

template <class D>
void pack_codes(const uint8_t* codes, int64_t width, int64_t count, uint8_t* packed) {
  constexpr int64_t lane_codes = 8 / sizeof(D);
  const int64_t words = words_of(width);
  for (int64_t first = 0; first < count; first += kBlock, packed += words * 8 * kBlock) {
    auto* block = reinterpret_cast<uint64_t*>(packed);  // [words][8 vectors][8 lanes]
    if (count - first < kBlock) __builtin_memset(packed, 0, static_cast<size_t>(words * 8 * kBlock));
    const int64_t rest = width % 8;
    for (int64_t w = 0; w < words; ++w)
      for (int64_t place = 0; place < kBlock; ++place) {  // in the order of the packed words: full cache lines are written
        const int64_t v = place / 8, l = place % 8;
        const int64_t j = first + 8 * lane_codes * (v / lane_codes) + lane_codes * l + v % lane_codes;
        if (j >= count) continue;
        const uint8_t* bytes = codes + j * width + 8 * w;
        block[w * kBlock + place] = w < width / 8 ? word_at(bytes) : last_word(bytes, rest);
      }
  }
}

// The sum over the lanes of each of 8 vectors, in their order: three rounds of adding halves instead of 8 times a whole reduction.
static inline __attribute__((always_inline)) Vector sums_of(const Vector (&v)[8]) {
  Vector pairs[4], fours[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) pairs[i] = _mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]) + _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    fours[i] = _mm512_shuffle_i64x2(pairs[2 * i], pairs[2 * i + 1], 0x88) + _mm512_shuffle_i64x2(pairs[2 * i], pairs[2 * i + 1], 0xdd);
  return _mm512_shuffle_i64x2(fours[0], fours[1], 0x88) + _mm512_shuffle_i64x2(fours[0], fours[1], 0xdd);
}

// Codes of whole vectors: each is loaded once and counted, and the counts of 8 codes are added up together.
template <class D>
void row_distances_in_vectors(const uint8_t* codes, int64_t width, int64_t count, const uint64_t* query, D* out) {
  int64_t j = 0;
  for (; width % 64 == 0 && j + 8 <= count; j += 8) {
    Vector sum[8] = {};
    for (int64_t w = 0; w < width; w += 64) {
      const Vector own = _mm512_loadu_si512(query + w / 8);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += _mm512_popcnt_epi64(_mm512_xor_si512(_mm512_loadu_si512(codes + (j + i) * width + w), own));
    }
    alignas(64) int64_t sums[8];
    _mm512_store_si512(sums, sums_of(sum));
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) out[j + i] = static_cast<D>(sums[i]);
  }
  row_distances(codes + j * width, width, count - j, query, out + j);
}

// lane_codes vectors of distances, each in 64-bit lanes, into one vector of D.
template <class D>
static inline __attribute__((always_inline)) Vector interleave(const Vector* sum) {
  constexpr int bits = 8 * sizeof(D);
  if constexpr (sizeof(D) == 1) {
    const Vector a = _mm512_ternarylogic_epi64(sum[0], _mm512_slli_epi64(sum[1], bits), _mm512_slli_epi64(sum[2], 2 * bits), 0xFE);
    const Vector b = _mm512_ternarylogic_epi64(a, _mm512_slli_epi64(sum[3], 3 * bits), _mm512_slli_epi64(sum[4], 4 * bits), 0xFE);
    const Vector c = _mm512_ternarylogic_epi64(b, _mm512_slli_epi64(sum[5], 5 * bits), _mm512_slli_epi64(sum[6], 6 * bits), 0xFE);
    return _mm512_or_si512(c, _mm512_slli_epi64(sum[7], 7 * bits));
  } else if constexpr (sizeof(D) == 2) {
    const Vector a = _mm512_ternarylogic_epi64(sum[0], _mm512_slli_epi64(sum[1], bits), _mm512_slli_epi64(sum[2], 2 * bits), 0xFE);
    return _mm512_or_si512(a, _mm512_slli_epi64(sum[3], 3 * bits));
  } else {
    return _mm512_or_si512(sum[0], _mm512_slli_epi64(sum[1], bits));
  }
}

// One output vector of each of `queries` queries: 8 lane_codes codes. `vectors` are its lane_codes vectors of word 0.
template <class D, int queries>
static inline __attribute__((always_inline)) void output_vector(const Vector* vectors, int64_t words, const uint64_t* query, D* out, int64_t stride) {
  constexpr int lane_codes = 8 / sizeof(D);
  Vector sum[queries][lane_codes];
#pragma GCC unroll 8
  for (int v = 0; v < lane_codes; ++v) {
    const Vector codes = _mm512_load_si512(vectors + v);
#pragma GCC unroll 4
    for (int q = 0; q < queries; ++q)
      sum[q][v] = _mm512_popcnt_epi64(_mm512_xor_si512(codes, _mm512_set1_epi64(static_cast<int64_t>(query[q * words]))));
  }
  for (int64_t w = 1; w < words; ++w) {
#pragma GCC unroll 8
    for (int v = 0; v < lane_codes; ++v) {
      const Vector codes = _mm512_load_si512(vectors + 8 * w + v);
#pragma GCC unroll 4
      for (int q = 0; q < queries; ++q)
        sum[q][v] =
            _mm512_add_epi64(sum[q][v], _mm512_popcnt_epi64(_mm512_xor_si512(codes, _mm512_set1_epi64(static_cast<int64_t>(query[q * words + w])))));
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < queries; ++q) _mm512_store_si512(out + q * stride, interleave<D>(sum[q]));
}

template <class D>
void code_distances(const uint8_t* packed, int64_t blocks, int64_t words, const uint64_t* queries, D* out, int64_t stride) {
  constexpr int lane_codes = 8 / sizeof(D);
  constexpr int at_once = sizeof(D) == 1 ? 2 : kQueriesAtOnce;  // 16 sums, so that none leaves the registers
  const auto* block = reinterpret_cast<const Vector*>(packed);
  for (int64_t b = 0; b < blocks; ++b, block += 8 * words)
    for (int v = 0; v < 8; v += lane_codes)
      for (int q = 0; q < kQueriesAtOnce; q += at_once)
        output_vector<D, at_once>(block + v, words, queries + q * words, out + q * stride + b * kBlock + v * 8, stride);
}

template <class D>
static inline __attribute__((always_inline)) uint64_t at_most(const D* row, Vector limit) {  // a bit for each lane of one vector
  const Vector values = _mm512_load_si512(row);
  if constexpr (sizeof(D) == 1) return _mm512_cmple_epu8_mask(values, limit);
  if constexpr (sizeof(D) == 2) return _mm512_cmple_epu16_mask(values, limit);
  return _mm512_cmple_epu32_mask(values, limit);
}

template <class D>
static inline __attribute__((always_inline)) Vector broadcast(D value) {
  if constexpr (sizeof(D) == 1) return _mm512_set1_epi8(static_cast<char>(value));
  if constexpr (sizeof(D) == 2) return _mm512_set1_epi16(static_cast<short>(value));
  return _mm512_set1_epi32(static_cast<int>(value));
}

template <class D>
int64_t count_at_most(const D* row, int64_t count, D limit) {
  constexpr int64_t lanes = 64 / sizeof(D);
  const Vector bound = broadcast(limit);
  int64_t total = 0;
#pragma GCC unroll 4
  for (int64_t j = 0; j < count; j += lanes) total += __builtin_popcountll(at_most(row + j, bound));
  return total;
}

template <class D>
int64_t collect(const D* row, int64_t count, D limit, int32_t* index) {
  constexpr int64_t lanes = 64 / sizeof(D);
  const Vector bound = broadcast(limit);
  int32_t* to = index;
  for (int64_t j = 0; j < count; j += 64) {
    uint64_t hits = 0;  // a bit for each of 64 distances
    for (int64_t l = 0; l < 64; l += lanes) hits |= at_most(row + j + l, bound) << l;
    for (; hits; hits &= hits - 1) *to++ = static_cast<int32_t>(j + __builtin_ctzll(hits));
  }
  return to - index;
}

template <class D>
const CodesKernel<D>& codes() {
  static const CodesKernel<D> k{&pack_codes<D>, &code_distances<D>, &row_distances_in_vectors<D>, &count_at_most<D>, &collect<D>};
  return k;
}

template const CodesKernel<uint8_t>& codes<uint8_t>();
template const CodesKernel<uint16_t>& codes<uint16_t>();
template const CodesKernel<uint32_t>& codes<uint32_t>();
