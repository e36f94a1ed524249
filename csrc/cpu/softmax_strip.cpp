#include "softmax_strip.h"
#include "intrinsics.h"

#define ZSML_ISA_FILE "softmax_strip.inc.h"
#include "foreach_isa.h"

namespace zsml::cpu {

template <class T>
const SoftmaxStripKernel<T>& softmax_strip_kernel(Isa isa) {
#if ZSML_HAS_X86_VARIANTS
  if (isa >= Isa::avx512) return avx512::softmax_strip<T>();
  if (isa == Isa::avx2) return avx2::softmax_strip<T>();
#endif
  (void)isa;
  return portable::softmax_strip<T>();
}

template const SoftmaxStripKernel<float>& softmax_strip_kernel<float>(Isa);
template const SoftmaxStripKernel<double>& softmax_strip_kernel<double>(Isa);

}  // namespace zsml::cpu
