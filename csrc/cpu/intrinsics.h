// Vector intrinsics, for the files that foreach_isa.h compiles: no header may be included from within them.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 suspects its own intrinsics of these (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif
