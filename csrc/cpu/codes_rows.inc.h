// Distances straight from codes as they lie in memory: for a few queries, packing would cost more than it saves. Included once per
// instruction set, by the bodies of codes.h.

static inline __attribute__((always_inline)) uint64_t word_at(const uint8_t* bytes) {
  uint64_t word;
  __builtin_memcpy(&word, bytes, 8);
  return word;
}

static inline __attribute__((always_inline)) uint64_t last_word(const uint8_t* bytes, int64_t rest) {
  uint64_t word = 0;
  for (int64_t byte = 0; byte < rest; ++byte) word |= static_cast<uint64_t>(bytes[byte]) << (8 * byte);
  return word;
}

template <class D, int64_t words>
static inline __attribute__((always_inline)) void fixed_row_distances(const uint8_t* codes, int64_t count, const uint64_t* query, D* out) {
  for (int64_t j = 0; j < count; ++j) {
    int64_t sum = 0;
#pragma GCC unroll 8
    for (int64_t w = 0; w < words; ++w) sum += __builtin_popcountll(word_at(codes + (j * words + w) * 8) ^ query[w]);
    out[j] = static_cast<D>(sum);
  }
}

template <class D>
void row_distances(const uint8_t* codes, int64_t width, int64_t count, const uint64_t* query, D* out) {
  if (width == 8) return fixed_row_distances<D, 1>(codes, count, query, out);
  if (width == 16) return fixed_row_distances<D, 2>(codes, count, query, out);
  if (width == 32) return fixed_row_distances<D, 4>(codes, count, query, out);
  if (width == 64) return fixed_row_distances<D, 8>(codes, count, query, out);
  const int64_t whole = width / 8, rest = width % 8;
  for (int64_t j = 0; j < count; ++j, codes += width) {
    int64_t sum = 0;
    for (int64_t w = 0; w < whole; ++w) sum += __builtin_popcountll(word_at(codes + 8 * w) ^ query[w]);
    if (rest) sum += __builtin_popcountll(last_word(codes + 8 * whole, rest) ^ query[whole]);
    out[j] = static_cast<D>(sum);
  }
}
