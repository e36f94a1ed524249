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
  const T poison = sum_terms<T>(
      depth, [&](int64_t k) { return L::load(row + k) * T(0); }, [&](int64_t k) { return row[k] * T(0); });
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
  return sum_terms<T>(
      depth, [&](int64_t k) { return L::load(a + k) * L::load(b + k); }, [&](int64_t k) { return a[k] * b[k]; });
}

template <class T>
void row_add_difference(T* sum, const T* from, const T* to, int64_t depth, T weight) {
  for (int64_t k = 0; k < depth; ++k) sum[k] += weight * (from[k] - to[k]);
}

template <class T>
void row_add_to(double* sum, const T* row, int64_t depth, T scale) {
  for (int64_t k = 0; k < depth; ++k) sum[k] += static_cast<double>(row[k] * scale);
}

template <class T>
void rows_pack(const T* const* row, int64_t width, int64_t depth, T scale, const T* shift, T* panel) {
  constexpr int64_t block = 64 / sizeof(T);  // a cache line of every row, then the next: reads stay near, writes in order
  for (int64_t k0 = 0; k0 < depth; k0 += block)
    for (int64_t k = k0; k < (k0 + block < depth ? k0 + block : depth); ++k)
      for (int64_t r = 0; r < width; ++r) panel[k * width + r] = row[r][k] * scale - shift[k];
}

template <class T>
const RowMaths<T>& maths() {
  static const RowMaths<T> m{&row_largest<T>,        &row_squared_length<T>, &row_squared_distance<T>, &row_inner<T>,
                             &row_add_difference<T>, &row_add_to<T>,         &rows_pack<T>};
  return m;
}

template const RowMaths<float>& maths<float>();
template const RowMaths<double>& maths<double>();
