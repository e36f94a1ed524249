#include "row_maths.h"

#define ZSML_ISA_FILE "row_maths.inc.h"
#include "foreach_isa.h"

namespace zsml::cpu {

template <class T>
const RowMaths<T>& row_maths(Isa isa) {
#if ZSML_HAS_X86_VARIANTS
  if (isa >= Isa::avx512) return avx512::maths<T>();
  if (isa == Isa::avx2) return avx2::maths<T>();
#endif
  (void)isa;
  return portable::maths<T>();
}

template const RowMaths<float>& row_maths<float>(Isa);
template const RowMaths<double>& row_maths<double>(Isa);

}  // namespace zsml::cpu
