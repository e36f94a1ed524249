// The body of row_maths.h, included once per instruction set (see foreach_isa.h). Sums run in several independent lanes: that
// vectorises, and rounds better than one long chain.

template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias));
  typedef T Unaligned __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias, aligned(sizeof(T))));
  static constexpr int width = ZSML_VECTOR_BYTES / sizeof(T);
  static constexpr int chains = 4;  // as many additions in flight as hide their latency

  static Vector load(const T* from) { return *reinterpret_cast<const Unaligned*>(from); }

  // The four chains' lanes, added pairwise.
  static T total(Vector (&sum)[chains]) {
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (int step = width / 2; step > 0; step /= 2)
      for (int l = 0; l < step; ++l) sum[0][l] += sum[0][l + step];
    return sum[0][0];
  }
};

// sum_k term(k): `vector(k)` gives `width` terms from k on, `scalar(k)` a single one.
template <class T, class OfVector, class OfScalar>
static inline __attribute__((always_inline)) T sum_terms(int64_t depth, const OfVector& vector, const OfScalar& scalar) {
  using L = Lanes<T>;
  typename L::Vector sum[L::chains] = {};
  int64_t k = 0;
  for (; k + L::chains * L::width <= depth; k += L::chains * L::width)
#pragma GCC unroll 4
    for (int c = 0; c < L::chains; ++c) sum[c] += vector(k + c * L::width);
  for (; k + L::width <= depth; k += L::width) sum[0] += vector(k);
  for (int l = 0; k < depth; ++k, ++l) sum[1][l] += scalar(k);
  return L::total(sum);
}

template <class T>
T row_largest(const T* row, int64_t depth, bool& finite) {
  using L = Lanes<T>;
  // 0 * x is NaN exactly where x is NaN or infinite.
  const T poison = sum_terms<T>(depth, [&](int64_t k) { return L::load(row + k) * T(0); }, [&](int64_t k) { return row[k] * T(0); });
  finite = poison == T(0);
  typename L::Vector high = {}, low = {};
  int64_t k = 0;
  for (; k + L::width <= depth; k += L::width) {
    const typename L::Vector v = L::load(row + k);
    high = v > high ? v : high;
    low = v < low ? v : low;
  }
  T largest = 0;
  for (int l = 0; l < L::width; ++l) largest = high[l] > largest ? high[l] : largest, largest = -low[l] > largest ? -low[l] : largest;
  for (; k < depth; ++k) largest = row[k] > largest ? row[k] : -row[k] > largest ? -row[k] : largest;
  return largest;
}

template <class T>
T row_squared_length(const T* row, int64_t depth, T scale, const T* shift) {
  using L = Lanes<T>;
  return sum_terms<T>(
      depth,
      [&](int64_t k) {
        const typename L::Vector v = L::load(row + k) * scale - L::load(shift + k);
        return v * v;
      },
      [&](int64_t k) {
        const T v = row[k] * scale - shift[k];
        return v * v;
      });
}

template <class T>
T row_squared_distance(const T* a, const T* b, int64_t depth, T scale) {
  using L = Lanes<T>;
  return sum_terms<T>(
      depth,
      [&](int64_t k) {
        const typename L::Vector v = (L::load(a + k) - L::load(b + k)) * scale;
        return v * v;
      },
      [&](int64_t k) {
        const T v = (a[k] - b[k]) * scale;
        return v * v;
      });
}

template <class T>
T row_inner(const T* a, const T* b, int64_t depth) {
  using L = Lanes<T>;
  return sum_terms<T>(depth, [&](int64_t k) { return L::load(a + k) * L::load(b + k); }, [&](int64_t k) { return a[k] * b[k]; });
}

template <class T>
void row_add_difference(T* sum, const T* from, const T* to, int64_t depth, T weight) {
  for (int64_t k = 0; k < depth; ++k) sum[k] += weight * (from[k] - to[k]);
}

template <class T>
void row_subtract_and_scale(T* sum, const T* row, int64_t depth, T weight, double scale) {
  const T plain = static_cast<T>(scale);
  if (plain > T(0) && plain - plain == T(0))
    for (int64_t k = 0; k < depth; ++k) sum[k] = (sum[k] - weight * row[k]) * plain;
  else  // beyond the range of T, though the result need not be
    for (int64_t k = 0; k < depth; ++k) sum[k] = static_cast<T>(static_cast<double>(sum[k] - weight * row[k]) * scale);
}

template <class T>
void row_add_to(double* sum, const T* row, int64_t depth, T scale) {
  for (int64_t k = 0; k < depth; ++k) sum[k] += static_cast<double>(row[k] * scale);
}

// Lanes of two vectors by turns: of their first halves, and of their second halves.
template <int width>
struct Interleave;
template <>
struct Interleave<2> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 2);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 1, 3);
  }
};
template <>
struct Interleave<4> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
  }
};
template <>
struct Interleave<8> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
};
template <>
struct Interleave<16> {
  template <class V>
  static V low(V a, V b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  template <class V>
  static V high(V a, V b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
};

// Rows become columns: interleaving the two halves of the rows log2(width) times.
template <class T>
static inline __attribute__((always_inline)) void transpose(typename Lanes<T>::Vector (&v)[Lanes<T>::width]) {
  constexpr int width = Lanes<T>::width;
#pragma GCC unroll 4
  for (int step = 1; step < width; step *= 2) {
    typename Lanes<T>::Vector next[width];
#pragma GCC unroll 16
    for (int i = 0; i < width / 2; ++i) {
      next[2 * i] = Interleave<width>::low(v[i], v[i + width / 2]);
      next[2 * i + 1] = Interleave<width>::high(v[i], v[i + width / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) v[i] = next[i];
  }
}

// Columns [first, first + count) of a panel, count at most the lanes of a vector.
template <class T>
static inline __attribute__((always_inline)) void pack_group(const T* const* row, int64_t first, int64_t count, int64_t width, int64_t depth, T scale,
                                                             const T* shift, T* panel) {
  using L = Lanes<T>;
  int64_t k = 0;
  for (; k + L::width <= depth; k += L::width) {
    typename L::Vector v[L::width];
    const typename L::Vector less = L::load(shift + k);
#pragma GCC unroll 16
    for (int r = 0; r < L::width; ++r) v[r] = L::load(row[first + (r < count ? r : 0)] + k) * scale - less;
    transpose<T>(v);
#pragma GCC unroll 16
    for (int l = 0; l < L::width; ++l) {
      T* to = panel + (k + l) * width + first;
      // In a narrow panel a vector may be stored whole where the panel goes on: what it writes too much, the next ones overwrite.
      if (count == L::width || (width == count && (depth - k - l) * width >= L::width))
        *reinterpret_cast<typename L::Unaligned*>(to) = v[l];
      else
        for (int r = 0; r < count; ++r) to[r] = v[l][r];
    }
  }
  for (; k < depth; ++k)
    for (int64_t r = first; r < first + count; ++r) panel[k * width + r] = row[r][k] * scale - shift[k];
}

template <class T>
void rows_pack(const T* const* row, int64_t width, int64_t depth, T scale, const T* shift, T* panel) {
  constexpr int64_t lanes = Lanes<T>::width;
  for (int64_t first = 0; first < width; first += lanes)
    pack_group<T>(row, first, width - first < lanes ? width - first : lanes, width, depth, scale, shift, panel);
}

template <class T>
const RowMaths<T>& maths() {
  static const RowMaths<T> m{&row_largest<T>,        &row_squared_length<T>,     &row_squared_distance<T>, &row_inner<T>,
                             &row_add_difference<T>, &row_subtract_and_scale<T>, &row_add_to<T>,           &rows_pack<T>};
  return m;
}

template const RowMaths<float>& maths<float>();
template const RowMaths<double>& maths<double>();
