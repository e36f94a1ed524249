// Which vector instructions this machine has, asked once at run time, never assumed at compile time.
#pragma once

namespace zsml::cpu {

enum class Isa { portable = 0, avx2 = 1, avx512 = 2, avx512_vpopcnt = 3 };  // each includes the ones before it

// "portable", "avx2", "avx512" or "avx512_vpopcnt" (AVX-512 that also counts bits).
const char* name(Isa isa);

// True where the compiler could build this variant and this machine can run it.
bool available(Isa isa);

// The widest available variant; the environment variable ZSML_ISA (one of the names above) may ask for a narrower one.
Isa best_isa();

}  // namespace zsml::cpu
