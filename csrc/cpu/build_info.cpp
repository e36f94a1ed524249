// What zsml.info() asks of the CPU binary.
#include "../common.h"
#include "isa.h"

namespace zsml::cpu {
int64_t cpu_isa() { return static_cast<int64_t>(best_isa()); }
}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CompositeExplicitAutograd, m) { m.impl("cpu_isa", TORCH_BOX(&zsml::cpu::cpu_isa)); }
