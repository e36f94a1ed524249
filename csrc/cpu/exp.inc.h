// e^t lane by lane, without a branch. Included once per instruction set, after tile.inc.h and mask.inc.h.

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float lowest = -87, highest = 88;  // beyond: 0, and e^highest
  static constexpr float round = 12582912;            // 1.5 * 2^23: adding it leaves the whole part in the low bits
  static constexpr int mantissa = 23;
  static constexpr float ln2 = 0.693359375f, ln2_rest = -2.12194440e-4f;
  // e^r = 1 + r + r^2 p(r) for |r| <= ln(2) / 2; highest power first (Cephes, expf)
  static constexpr int terms = 6;
  static constexpr float p[terms] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
};
template <>
struct ExpConstants<double> {
  static constexpr double lowest = -708, highest = 709;
  static constexpr double round = 6755399441055744;  // 1.5 * 2^52
  static constexpr int mantissa = 52;
  static constexpr double ln2 = 6.93147180369123816490e-01, ln2_rest = 1.90821492927058770002e-10;
  static constexpr int terms = 12;  // 1 / 13!, ..., 1 / 2!: what is left out is below 1e-17
  static constexpr double p[terms] = {1.6059043836821614599e-10, 2.0876756987868098979e-9, 2.5052108385441718775e-8, 2.7557319223985890653e-7,
                                      2.7557319223985890653e-6,  2.4801587301587301587e-5, 1.9841269841269841270e-4, 1.3888888888888888889e-3,
                                      8.3333333333333333333e-3,  4.1666666666666666667e-2, 1.6666666666666666667e-1, 0.5};
};

template <class T>
inline __attribute__((always_inline)) typename Tile<T>::Vector exp_of(typename Tile<T>::Vector t) {
  using C = ExpConstants<T>;
  using Vector = typename Tile<T>::Vector;
  using Ints = typename Tile<T>::Ints;
  using Masks = Masks<T>;
  const auto vanishes = Masks::less(t, Vector{} + C::lowest);
  t = Masks::choose(Masks::less(Vector{} + C::highest, t), Vector{} + C::highest, t);
  const Vector whole = t * T(1.44269504088896340736) + C::round;
  const Vector n = whole - C::round;
  const Vector r = (t - n * C::ln2) - n * C::ln2_rest;
  Vector p = Vector{} + C::p[0];
#pragma GCC unroll 12
  for (int i = 1; i < C::terms; ++i) p = p * r + C::p[i];
  p = p * (r * r) + (r + T(1));
  return Masks::choose(vanishes, Vector{}, (Vector)((Ints)p + ((Ints)whole << C::mantissa)));  // times 2^n
}
