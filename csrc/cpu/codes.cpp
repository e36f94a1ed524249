#include "codes.h"

#include "../hamming.h"
#include "intrinsics.h"

#define ZSML_ISA_FILE "codes_planes.inc.h"
#include "foreach_isa.h"

#if ZSML_HAS_X86_VARIANTS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vpopcntdq,popcnt,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512vpopcntdq,popcnt,bmi,bmi2,prefer-vector-width=512")
#endif
namespace zsml::cpu::avx512_vpopcnt {
#include "codes_vpopcnt.inc.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace zsml::cpu {

template <class D>
const CodesKernel<D>& codes_kernel(Isa isa) {
#if ZSML_HAS_X86_VARIANTS
  if (isa >= Isa::avx512_vpopcnt) return avx512_vpopcnt::codes<D>();
  if (isa == Isa::avx512) return avx512::codes<D>();
  if (isa == Isa::avx2) return avx2::codes<D>();
#endif
  (void)isa;
  return portable::codes<D>();
}

template const CodesKernel<uint8_t>& codes_kernel<uint8_t>(Isa);
template const CodesKernel<uint16_t>& codes_kernel<uint16_t>(Isa);
template const CodesKernel<uint32_t>& codes_kernel<uint32_t>(Isa);

}  // namespace zsml::cpu
