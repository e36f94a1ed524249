// What the CUDA kernels must find, by brute force in wide arithmetic.
#pragma once

#include <cstdio>

#include "cuda_cases.h"

namespace zsml::cuda::test {

// Under a sanitizer everything takes far longer.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

inline std::string text(double value) {
  char digits[40];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  return digits;
}

template <class S>
bool is_finite(const S* row, int64_t depth) {
  return std::all_of(row, row + depth, [](S value) { return std::isfinite(static_cast<Computed<S>>(value)); });
}

template <class S>
Wide<S> true_distance(const Input<S>& in, int64_t i, int64_t j) {
  Wide<S> sum = 0;
  for (int64_t k = 0; k < in.depth; ++k) {
    const Wide<S> difference = Wide<S>(Computed<S>(in.x[i * in.depth + k])) - Wide<S>(Computed<S>(in.refs[j * in.depth + k]));
    sum += difference * difference;
  }
  return std::sqrt(sum);
}

// How far the chosen pair may be from the hardest: relatively, and by how much rows were moved. choice: the index must be the oracle's
// where every distance is exact.
template <class S, class T>
void check_pairs(const Case<S>& c, const char* path, const Output<T>& out, double slack, double moved = 0, bool choice = true) {
  const Input<S>& in = c.in;
  using Limits = std::numeric_limits<T>;
  const bool exact = choice && (c.kind == whole || c.kind == whole_far || c.kind == extreme || c.kind == duplicates);
  std::vector<char> usable(in.candidates);
  for (int64_t j = 0; j < in.candidates; ++j) usable[j] = is_finite(&in.refs[j * in.depth], in.depth);
  for (int64_t i = 0; i < in.anchors; ++i) {
    const bool finite = is_finite(&in.x[i * in.depth], in.depth);
    Wide<S> best[kRoles], own[kRoles];  // the hardest, and what was chosen
    int64_t expected[kRoles];
    for (int role = 0; role < kRoles; ++role) {
      best[role] = !finite ? NAN : zsml::is_positive(role) ? -INFINITY : INFINITY;
      own[role] = NAN, expected[role] = -1;
    }
    for (int64_t j = 0; finite && j < in.candidates; ++j) {
      if (!usable[j] || (in.self && j == i) || (in.excludes && j == in.exclude[i])) continue;
      const int role = zsml::role_of(in.ref_labels[j] == in.labels[i], in.ref_modality[j] == in.modality[i]);
      const Wide<S> d = true_distance(in, i, j);
      if (expected[role] < 0 || (zsml::is_positive(role) ? d > best[role] : d < best[role])) best[role] = d, expected[role] = j;
      if (j == out.index[role * in.anchors + i]) own[role] = d;
    }
    for (int role = 0; role < kRoles; ++role) {
      const T got = out.distance[role * in.anchors + i];
      const int64_t chosen = out.index[role * in.anchors + i];
      const std::string where = "anchor " + std::to_string(i) + " role " + std::to_string(role) + " chose " + std::to_string(chosen) + " at " +
                                text(got) + ", the hardest is " + std::to_string(expected[role]) + " at " + text(best[role]);
      const bool overflows = best[role] > Limits::max() && own[role] > Limits::max();  // then all that far are equally hard
      if ((chosen < 0) != (expected[role] < 0) || (exact && !overflows && chosen != expected[role])) c.fail(path, where);
      if (chosen < 0 && (chosen != -1 || !(std::isnan(best[role]) ? std::isnan(got) : got == best[role]))) c.fail(path, where);
      if (chosen < 0) continue;
      if (std::isnan(own[role])) c.fail(path, where + "; not a candidate");
      if (!overflows && !(std::abs(own[role] - best[role]) <= slack * best[role] + moved)) c.fail(path, where + "; not the hardest");
      const Wide<S> rounding = 16 * Limits::epsilon() * own[role] + Limits::denorm_min();
      if (!(own[role] > Limits::max() ? got > Limits::max() : std::abs(got - own[role]) <= rounding)) c.fail(path, where + "; not its distance");
    }
  }
}

template <class T>
bool same(const Output<T>& a, const Output<T>& b) {
  return a.index == b.index && !std::memcmp(a.distance.data(), b.distance.data(), a.distance.size() * sizeof(T));
}

}  // namespace zsml::cuda::test
