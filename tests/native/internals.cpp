// zsml_internals: the pieces behind the ops, one by one and per instruction set, for pytest, hypothesis and micro-benchmarks.
// Never shipped. Arrays are numpy float32 or float64 and C-contiguous; `isa` is "portable", "avx2" or "avx512".
#include "internals.h"

PYBIND11_MODULE(zsml_internals, m) {
  using namespace zsml::test;
  m.def("available", [](const std::string& isa) { return available(isa_named(isa)); }, "isa"_a);
  m.def("best_isa", [] { return name(best_isa()); });
  define_tile(m);
  define_hardest_pairs(m);
}
