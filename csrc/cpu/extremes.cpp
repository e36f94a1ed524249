#include "extremes.h"

#include "../hardest_pairs.h"
#include "intrinsics.h"

#define ZSML_ISA_FILE "extremes.inc.h"
#include "foreach_isa.h"

namespace zsml::cpu {

template <class T>
const ExtremesKernel<T>& extremes_kernel(Isa isa) {
#if ZSML_HAS_X86_VARIANTS
  if (isa >= Isa::avx512) return avx512::kernel<T>();
  if (isa == Isa::avx2) return avx2::kernel<T>();
#endif
  (void)isa;
  return portable::kernel<T>();
}

template const ExtremesKernel<float>& extremes_kernel<float>(Isa);
template const ExtremesKernel<double>& extremes_kernel<double>(Isa);

}  // namespace zsml::cpu
