// What the tests of supcon and margin_softmax share: results against definitions in wider arithmetic, with what rounding may do to them.
#pragma once

#include "softmax_launches.h"

#include "cuda_cases.h"

namespace zsml::cuda::test {

// Under a sanitizer everything takes far longer.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

template <class S>
constexpr double kRounding = std::numeric_limits<Computed<S>>::epsilon();
template <class S>
constexpr double kStored = std::is_same_v<S, Computed<S>> ? 0 : 1.0 / 256;  // results of a narrow type are rounded once more

template <class S>
void compare(const char* what, const std::vector<S>& got, const std::vector<Wide<S>>& expected, const std::vector<Wide<S>>& tolerance) {
  for (size_t at = 0; at < got.size(); ++at) {
    const Wide<S> own = Wide<S>(Computed<S>(got[at]));
    if (std::isfinite(expected[at]) ? std::abs(own - expected[at]) <= tolerance[at]
        : std::isnan(own)           ? std::isnan(expected[at])
                                    : own == expected[at])
      continue;
    char text[200];
    std::snprintf(text, sizeof text, "%s %zu is %.9g, expected %.9g +- %.3g", what, at, static_cast<double>(own), static_cast<double>(expected[at]),
                  static_cast<double>(tolerance[at]));
    throw std::runtime_error(text);
  }
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

template <class S>
bool is_finite(const std::vector<S>& rows, int64_t r, int64_t depth) {
  return std::all_of(&rows[r * depth], &rows[r * depth] + depth, [](S value) { return std::isfinite(static_cast<Computed<S>>(value)); });
}

// A row as the products see it.
template <class S>
std::vector<Wide<S>> widened(const std::vector<S>& rows, int64_t depth) {
  std::vector<Wide<S>> wide(rows.size());
  for (size_t at = 0; at < rows.size(); ++at)
    wide[at] = is_finite(rows, static_cast<int64_t>(at) / depth, depth) ? Wide<S>(Computed<S>(rows[at])) : Wide<S>(0);
  return wide;
}

template <class W>
W softplus_of(W t) {
  return std::max(t, W(0)) + std::log1p(std::exp(-std::abs(t)));
}
template <class W>
W sigmoid_of(W t) {
  return 1 / (1 + std::exp(-t));
}

template <class T>
std::vector<T> draw_gradient(int64_t count) {
  std::vector<T> grad(count);
  for (T& g : grad) g = T(draw(-8, 8)) / 4;
  return grad;
}

// Up to some four by four blocks of pairs, or one.
inline EmulatedRun draw_run(int64_t anchors, int64_t candidates, uint64_t seed) {
  const auto part = [](int64_t count) { return draw(0, 1) ? count / draw(1, 4) + draw(1, 2) : 16384; };
  const BlockLimits limits{part(anchors), part(candidates), 1 << 22};
  return {draw(0, 3) ? limits : BlockLimits{limits.rows, 16384, anchors * candidates / 4 + 1}, seed};
}

// Both gradients, and how far each may be off.
template <class S>
struct Flows {
  std::vector<Wide<S>> x, refs, x_slack, refs_slack;
  explicit Flows(size_t of_x, size_t of_refs) : x(of_x), refs(of_refs), x_slack(of_x), refs_slack(of_refs) {}

  void check(const std::vector<S>& grad_x, const std::vector<S>& grad_refs) {
    for (auto* pair : {&x, &refs})
      for (size_t at = 0; at < pair->size(); ++at)
        (pair == &x ? x_slack : refs_slack)[at] += kStored<S> * std::abs((*pair)[at]) + std::numeric_limits<Computed<S>>::min();
    compare("grad_x", grad_x, x, x_slack);
    if (!grad_refs.empty()) compare("grad_refs", grad_refs, refs, refs_slack);
  }
};

}  // namespace zsml::cuda::test
