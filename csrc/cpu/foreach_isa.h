// Compiles the file named by ZSML_ISA_FILE once per instruction set, each time in its own namespace.
//
//   #define ZSML_ISA_FILE "nearest.inc.h"
//   #include "foreach_isa.h"
//
// The file sees ZSML_VECTOR_BYTES (width of one vector register) and ZSML_VECTOR_REGISTERS (how many there are), and must
// include no other header: an inline function of the standard library compiled here could be the copy that the linker
// keeps for everybody, and would then crash on a machine without these instructions.

#define ZSML_VECTOR_BYTES 16
#define ZSML_VECTOR_REGISTERS 16
namespace zsml::cpu::portable {
#include ZSML_ISA_FILE
}
#undef ZSML_VECTOR_BYTES
#undef ZSML_VECTOR_REGISTERS

#if defined(__x86_64__) && defined(__GNUC__)
#define ZSML_HAS_X86_VARIANTS 1

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,popcnt")
#endif
#define ZSML_VECTOR_BYTES 32
#define ZSML_VECTOR_REGISTERS 16
namespace zsml::cpu::avx2 {
#include ZSML_ISA_FILE
}
#undef ZSML_VECTOR_BYTES
#undef ZSML_VECTOR_REGISTERS
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,popcnt,prefer-vector-width=512")
#endif
#define ZSML_VECTOR_BYTES 64
#define ZSML_VECTOR_REGISTERS 32
namespace zsml::cpu::avx512 {
#include ZSML_ISA_FILE
}
#undef ZSML_VECTOR_BYTES
#undef ZSML_VECTOR_REGISTERS
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
#define ZSML_HAS_X86_VARIANTS 0
#endif
