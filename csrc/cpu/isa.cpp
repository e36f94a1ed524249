#include "isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace zsml::cpu {

const char* name(Isa isa) {
  switch (isa) {
    case Isa::avx512_vpopcnt: return "avx512_vpopcnt";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "portable";
  }
}

bool available(Isa isa) {
#if defined(__x86_64__) && defined(__GNUC__)
  switch (isa) {
    case Isa::avx512_vpopcnt: return available(Isa::avx512) && __builtin_cpu_supports("avx512vpopcntdq");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && available(Isa::avx2);
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
    default: return true;
  }
#else
  return isa == Isa::portable;
#endif
}

Isa best_isa() {
  static const Isa chosen = [] {
    const char* wish = std::getenv("ZSML_ISA");
    Isa widest = Isa::avx512_vpopcnt;  // an unknown wish changes nothing; zsml._ext warns of it
    for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
      if (wish && !std::strcmp(wish, name(isa))) widest = isa;
    for (Isa isa : {Isa::avx512_vpopcnt, Isa::avx512, Isa::avx2})
      if (isa <= widest && available(isa)) return isa;
    return Isa::portable;
  }();
  return chosen;
}

}  // namespace zsml::cpu
