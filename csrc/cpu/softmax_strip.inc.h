// The body of softmax_strip.h, included once per instruction set (see foreach_isa.h).
#include "tile.inc.h"

#include "mask.inc.h"

#include "exp.inc.h"

template <class T>
struct SoftmaxLanes {
  using Vector = typename Tile<T>::Vector;
  using Ints = typename Tile<T>::Ints;
  using Mask = typename Masks<T>::Mask;
  typedef T UnalignedVector __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias, aligned(sizeof(T))));
  typedef Integer<T> UnalignedInts __attribute__((vector_size(ZSML_VECTOR_BYTES), may_alias, aligned(sizeof(T))));
  static constexpr int count = Tile<T>::lanes;

  ZSML_INLINE Vector load(const T* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
  ZSML_INLINE Ints load(const Integer<T>* p) { return *reinterpret_cast<const UnalignedInts*>(p); }
  ZSML_INLINE void store(T* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
  ZSML_INLINE Vector all(T value) { return Vector{} + value; }
  ZSML_INLINE Vector larger(Vector a, Vector b) { return Masks<T>::choose(Masks<T>::less(a, b), b, a); }
  ZSML_INLINE T sum(Vector v) {
    T total = 0;
    for (int l = 0; l < count; ++l) total += v[l];
    return total;
  }
};

// Which lanes are pairs at all, and which have the row's label.
template <class T>
struct PairMasks {
  typename Masks<T>::Mask kept, same;
};

template <class T>
inline __attribute__((always_inline)) PairMasks<T> pair_masks(typename Tile<T>::Vector value, const PairColumns<T>& columns, const PairRow<T>& row,
                                                              const PairRule& rule, int64_t j) {
  using L = SoftmaxLanes<T>;
  using Ints = typename L::Ints;
  PairMasks<T> m{Masks<T>::less(L::all(-__builtin_inf()), value), Masks<T>::equal(L::load(columns.label + j), Ints{} + row.label)};
  if (rule.pairs != kAllPairs) {
    const auto within = Masks<T>::equal(L::load(columns.modality + j), Ints{} + row.modality);
    m.kept = m.kept & (rule.pairs == kWithinPairs ? within : ~within);
  }
  return m;
}

template <class T, bool per_pair>
inline __attribute__((always_inline)) StripSum<T> sum_of(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row,
                                                         const PairRule& rule) {
  using L = SoftmaxLanes<T>;
  using Masks = Masks<T>;
  using Vector = typename L::Vector;
  using Ints = typename L::Ints;
  const Vector nothing = L::all(-__builtin_inf());
  Vector largest = nothing, positive = {}, sum = {};
  Ints positives = {};
  for (int64_t j = 0; j < count; j += L::count) {
    const Vector v = L::load(value + j);
    const PairMasks<T> m = pair_masks(v, columns, row, rule, j);
    const Vector in = Masks::choose(per_pair ? m.kept & ~m.same : m.kept, v, nothing);
    L::store(value + j, in);
    largest = L::larger(largest, in);
    if (!per_pair) {
      positive += Masks::choose(m.kept & m.same, v, Vector{});
      positives += Masks::choose(m.kept & m.same, Ints{} + 1, Ints{});
    }
  }
  StripSum<T> result{largest[0], 0, L::sum(positive), 0};
  for (int l = 0; l < L::count; ++l) {
    result.top = largest[l] > result.top ? largest[l] : result.top;
    result.positives += positives[l];
  }
  if (!(result.top > -__builtin_inf())) return result;
  for (int64_t j = 0; j < count; j += L::count) sum += exp_of<T>(L::load(value + j) - result.top);
  result.sum = L::sum(sum);
  return result;
}

template <class T>
StripSum<T> strip_sum(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule) {
  return rule.per_pair ? sum_of<T, true>(value, count, columns, row, rule) : sum_of<T, false>(value, count, columns, row, rule);
}

// A log for every pair would cost more than all the rest: the factors 1 + e <= 2 are multiplied lane by lane, as q with
// 1 + q = product (1 + e), which keeps small e exact, and one log is taken of 32 vectors of them: at most 2^512.
template <class T>
StripTerms strip_terms(const T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule) {
  using L = SoftmaxLanes<T>;
  using Masks = Masks<T>;
  using Vector = typename L::Vector;
  using Ints = typename L::Ints;
  StripTerms result{0, 0, 0};
  for (int64_t first = 0; first < count; first += kTermVectors * L::count) {
    const int64_t last = first + kTermVectors * L::count < count ? first + kTermVectors * L::count : count;
    Vector q = {}, above = {}, pull = {};
    Ints positives = {};
    for (int64_t j = first; j < last; j += L::count) {
      const Vector v = L::load(value + j);
      const PairMasks<T> m = pair_masks(v, columns, row, rule, j);
      const Vector t = Masks::choose(m.kept & m.same, row.anchor.lse - v, L::all(-__builtin_inf()));
      const auto rising = Masks::less(Vector{}, t);
      const Vector e = exp_of<T>(Masks::choose(rising, -t, t));
      q += e * (q + T(1));
      above += Masks::choose(rising, t, Vector{});
      pull += Masks::choose(rising, L::all(1), e) / (e + T(1));
      positives += Masks::choose(m.kept & m.same, Ints{} + 1, Ints{});
    }
    double product = 0;
    for (int l = 0; l < L::count; ++l) {
      product += q[l] * (product + 1);
      result.positives += positives[l];
    }
    result.loss += L::sum(above) + __builtin_log1p(product);
    result.pull += L::sum(pull);
  }
  return result;
}

// pair_weight, lane by lane
template <class T, bool per_pair>
inline __attribute__((always_inline)) typename Tile<T>::Vector weight_of(typename Masks<T>::Mask same, typename Tile<T>::Vector e,
                                                                         typename Tile<T>::Vector all, typename Tile<T>::Vector positive) {
  using Vector = typename Tile<T>::Vector;
  if (per_pair) return Masks<T>::choose(same, -positive / (e + T(1)), all * e);
  return all * e - Masks<T>::choose(same, positive, Vector{});
}

template <class T, bool per_pair>
inline __attribute__((always_inline)) T weights_of(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row,
                                                   const PairRule& rule) {
  using L = SoftmaxLanes<T>;
  using Masks = Masks<T>;
  using Vector = typename L::Vector;
  const Vector own_all = L::all(row.anchor.all), own_positive = L::all(row.anchor.positive);
  Vector total = {};
  for (int64_t j = 0; j < count; j += L::count) {
    const Vector v = L::load(value + j) + row.plus;
    const PairMasks<T> m = pair_masks(v, columns, row, rule, j);
    Vector w = {};
    if (rule.row_anchors) w += weight_of<T, per_pair>(m.same, exp_of<T>(v - row.anchor.lse), own_all, own_positive);
    if (rule.column_anchors)
      w += weight_of<T, per_pair>(m.same, exp_of<T>(v - L::load(columns.lse + j)), L::load(columns.all + j), L::load(columns.positive + j));
    auto counts = m.kept;
    if (rule.over_value) {
      counts = counts & Masks::less(v, Vector{});
      w /= v;
    }
    w = Masks::choose(counts, w, Vector{});
    L::store(value + j, w);
    total += w;
  }
  return L::sum(total);
}

template <class T>
T strip_weights(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule) {
  return rule.per_pair ? weights_of<T, true>(value, count, columns, row, rule) : weights_of<T, false>(value, count, columns, row, rule);
}

template <class Vector>
inline __attribute__((always_inline)) Vector root_of(Vector v) {
#if ZSML_VECTOR_BYTES == 64
  if constexpr (sizeof(v[0]) == 4)
    return (Vector)_mm512_sqrt_ps((__m512)v);
  else
    return (Vector)_mm512_sqrt_pd((__m512d)v);
#elif ZSML_VECTOR_BYTES == 32
  if constexpr (sizeof(v[0]) == 4)
    return (Vector)_mm256_sqrt_ps((__m256)v);
  else
    return (Vector)_mm256_sqrt_pd((__m256d)v);
#else
  for (unsigned l = 0; l < sizeof(v) / sizeof(v[0]); ++l) v[l] = __builtin_sqrt(v[l]);
  return v;
#endif
}

template <class T>
void strip_roots(T* value, int64_t count, const T* norm, T own, T scale) {
  using L = SoftmaxLanes<T>;
  constexpr T epsilon = sizeof(T) == 4 ? T(__FLT_EPSILON__) : T(__DBL_EPSILON__);
  for (int64_t j = 0; j < count; j += L::count) {
    const auto square = L::larger(L::load(value + j) + own, typename L::Vector{});
    L::store(value + j, -scale * root_of(square + epsilon * (L::load(norm + j) + own)));
  }
}

// e^(value - top), 0 where the pair does not count
template <class T>
inline __attribute__((always_inline)) typename Tile<T>::Vector exp_below(const T* value, const PairColumns<T>& columns, const PairRow<T>& row,
                                                                         const PairRule& rule, T top, int64_t j) {
  using L = SoftmaxLanes<T>;
  const auto e = exp_of<T>(L::load(value + j) - top);
  if (rule.pairs == kAllPairs) return e;
  const auto within = Masks<T>::equal(L::load(columns.modality + j), typename L::Ints{} + row.modality);
  return rule.pairs == kWithinPairs ? Masks<T>::choose(within, e, typename L::Vector{}) : Masks<T>::choose(within, typename L::Vector{}, e);
}

template <class T>
T strip_sum_both(const T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule, T top, T* column_sum) {
  using L = SoftmaxLanes<T>;
  typename L::Vector sum = {};
  for (int64_t j = 0; j < count; j += L::count) {
    const auto e = exp_below(value, columns, row, rule, top, j);
    sum += e;
    L::store(column_sum + j, L::load(column_sum + j) + e);
  }
  return L::sum(sum);
}

template <class T>
void strip_weights_both(T* value, int64_t count, const PairColumns<T>& columns, const PairRow<T>& row, const PairRule& rule, T top) {
  using L = SoftmaxLanes<T>;
  for (int64_t j = 0; j < count; j += L::count)
    L::store(value + j, exp_below(value, columns, row, rule, top, j) * (L::load(columns.all + j) + row.anchor.all));
}

template <class T, int64_t row, int64_t step>
inline __attribute__((always_inline)) void accumulate_all(const T* weight, int64_t panels, int64_t count, const T* rows, int64_t apart,
                                                          int64_t depth_panels, T* sum) {
  using Tile = Tile<T>;
  for (int64_t d = 0; d < depth_panels; ++d)
    for (int64_t q = 0; q < panels; ++q)
      Tile::template accumulate<row, step>(weight + q * Tile::rows * row, rows + d * apart, count,
                                           sum + (q * depth_panels + d) * Tile::rows * Tile::cols);
}

template <class T>
void strip_accumulate(const T* weight, int64_t panels, int64_t count, const T* rows, int64_t apart, int64_t depth_panels, T* sum) {
  accumulate_all<T, SoftmaxStripKernel<T>::stride, 1>(weight, panels, count, rows, apart, depth_panels, sum);
}

template <class T>
void strip_accumulate_transposed(const T* weight, int64_t panels, int64_t count, const T* rows, int64_t apart, int64_t depth_panels, T* sum) {
  accumulate_all<T, 1, SoftmaxStripKernel<T>::stride>(weight, panels, count, rows, apart, depth_panels, sum);
}

template <class T>
const SoftmaxStripKernel<T>& softmax_strip() {
  static const SoftmaxStripKernel<T> k{&strip_sum<T>,      &strip_terms<T>,       &strip_weights<T>,
                                       &strip_roots<T>,    &strip_accumulate<T>,  &strip_accumulate_transposed<T>,
                                       &strip_sum_both<T>, &strip_weights_both<T>};
  return k;
}

template const SoftmaxStripKernel<float>& softmax_strip<float>();
template const SoftmaxStripKernel<double>& softmax_strip<double>();
