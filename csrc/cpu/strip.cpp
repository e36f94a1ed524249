#include "strip.h"
#include "intrinsics.h"

#define ZSML_ISA_FILE "strip.inc.h"
#include "foreach_isa.h"

namespace zsml::cpu {

template <class T>
const StripKernel<T>& strip_kernel(Isa isa) {
#if ZSML_HAS_X86_VARIANTS
  if (isa >= Isa::avx512) return avx512::strip<T>();
  if (isa == Isa::avx2) return avx2::strip<T>();
#endif
  (void)isa;
  return portable::strip<T>();
}

template const StripKernel<float>& strip_kernel<float>(Isa);
template const StripKernel<double>& strip_kernel<double>(Isa);

}  // namespace zsml::cpu
