// How the core is given threads without knowing torch.
#pragma once

#include <cstdint>
#include <functional>

namespace zsml::cpu {

// Calls body(begin, end) over [begin, end) in pieces of about `grain`, on as many threads as the caller allows.
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace zsml::cpu
