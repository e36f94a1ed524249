// Lane-wise choices: which lanes satisfy a comparison, and picking by them. Included once per instruction set.
// Compilers turn the arithmetic of vector types into good code everywhere, but their comparisons of 64-byte vectors into scalar
// code; so AVX-512, which keeps masks in registers of their own, is spelled out.

#ifndef ZSML_INLINE
#define ZSML_INLINE static inline __attribute__((always_inline))
#endif

#if ZSML_VECTOR_BYTES == 64

template <class T>
struct Masks;
template <>
struct Masks<float> {
  using Mask = __mmask16;
  using Vector = VectorOf<float>::type;
  using Ints = VectorOf<float>::ints;
  ZSML_INLINE Mask less(Vector a, Vector b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
  ZSML_INLINE Mask equal(Vector a, Vector b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
  ZSML_INLINE Mask less(Ints a, Ints b) { return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b); }
  ZSML_INLINE Mask all() { return static_cast<Mask>(-1); }
  ZSML_INLINE Mask equal(Ints a, Ints b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
  ZSML_INLINE Vector choose(Mask m, Vector yes, Vector no) { return (Vector)_mm512_mask_mov_ps((__m512)no, m, (__m512)yes); }
  ZSML_INLINE Ints choose(Mask m, Ints yes, Ints no) { return (Ints)_mm512_mask_mov_epi32((__m512i)no, m, (__m512i)yes); }
};
template <>
struct Masks<double> {
  using Mask = __mmask8;
  using Vector = VectorOf<double>::type;
  using Ints = VectorOf<double>::ints;
  ZSML_INLINE Mask less(Vector a, Vector b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ); }
  ZSML_INLINE Mask equal(Vector a, Vector b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
  ZSML_INLINE Mask less(Ints a, Ints b) { return _mm512_cmplt_epi64_mask((__m512i)a, (__m512i)b); }
  ZSML_INLINE Mask all() { return static_cast<Mask>(-1); }
  ZSML_INLINE Mask equal(Ints a, Ints b) { return _mm512_cmpeq_epi64_mask((__m512i)a, (__m512i)b); }
  ZSML_INLINE Vector choose(Mask m, Vector yes, Vector no) { return (Vector)_mm512_mask_mov_pd((__m512d)no, m, (__m512d)yes); }
  ZSML_INLINE Ints choose(Mask m, Ints yes, Ints no) { return (Ints)_mm512_mask_mov_epi64((__m512i)no, m, (__m512i)yes); }
};

#else

template <class T>
struct Masks {
  using Vector = typename VectorOf<T>::type;
  using Ints = typename VectorOf<T>::ints;
  using Mask = Ints;  // all bits of a lane set or clear
  ZSML_INLINE Mask less(Vector a, Vector b) { return a < b; }
  ZSML_INLINE Mask less(Ints a, Ints b) { return a < b; }
  ZSML_INLINE Mask equal(Vector a, Vector b) { return a == b; }
  ZSML_INLINE Mask equal(Ints a, Ints b) { return a == b; }
  ZSML_INLINE Mask all() { return Ints{} - 1; }
  ZSML_INLINE Vector choose(Mask m, Vector yes, Vector no) { return m ? yes : no; }
  ZSML_INLINE Ints choose(Mask m, Ints yes, Ints no) { return m ? yes : no; }
};

#endif
