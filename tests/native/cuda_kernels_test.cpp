// The CUDA kernels against brute force, run by the emulator: every path of csrc/cuda/hardest_pairs.cu, each under two schedules.
#include "cuda_oracle.h"

using namespace zsml::cuda::test;
using zsml::kRoles;

namespace {

int failures = 0;

// A wrong frame need not show in the pairs: the second look at doubtful winners would make up for it, slowly.
template <class S, class T>
void check_frame(const Case<S>& c, uint64_t seed) {
  const Input<S>& in = c.in;
  const Frame<S, T> frame(in, seed);
  T largest = 0;
  double rows = 0, squares = 0, mean_squared = 0;
  std::vector<double> mean(in.depth);
  const auto look = [&](const std::vector<S>& set, int64_t count, const std::vector<uint8_t>& finite) {
    for (int64_t r = 0; r < count; ++r) {
      if (bool(finite[r]) != is_finite(&set[r * in.depth], in.depth)) c.fail("frame", "row " + std::to_string(r) + " finite or not");
      for (int64_t k = 0; finite[r] && k < in.depth; ++k) largest = std::max(largest, std::abs(Computed<S>(set[r * in.depth + k])));
    }
  };
  look(in.x, in.anchors, frame.finite), look(in.refs, in.candidates, frame.ref_finite);
  if (frame.largest[0] != largest) c.fail("frame", "the largest coordinate is " + text(frame.largest[0]) + ", expected " + text(largest));
  const T scale = zsml::cuda::frame_scale(largest);
  for (int64_t j = 0; j < in.candidates; ++j) {
    if (!frame.ref_finite[j]) continue;
    rows += 1;
    for (int64_t k = 0; k < in.depth; ++k) {
      const double value = Computed<S>(in.refs[j * in.depth + k]) * scale;
      mean[k] += value, squares += value * value;
    }
  }
  for (int64_t k = 0; k < in.depth; ++k) mean[k] /= std::max(rows, 1.0), mean_squared += mean[k] * mean[k];
  const double variance = std::max(0.0, squares / std::max(rows, 1.0) - mean_squared);
  if (std::abs(mean_squared - zsml::kCentreAbove * variance) < 1e-6 * mean_squared) return;  // could go either way
  const bool centre = mean_squared > zsml::kCentreAbove * variance;
  const double grid = std::sqrt(variance / static_cast<double>(in.depth)) + 1e-6 * std::sqrt(mean_squared);  // the shift may be rounded by half
  for (int64_t k = 0; k < in.depth; ++k)
    if (frame.centred[0] != centre || (centre ? std::abs(frame.shift[k] - mean[k]) > 0.51 * grid : frame.shift[k] != 0))
      c.fail("frame", "shift " + std::to_string(k) + " is " + text(frame.shift[k]) + ", the mean " + text(mean[k]));
}

template <class S, class T>
void check_gradient(const Case<S>& c, const Output<T>& pairs, uint64_t seed) {
  const Input<S>& in = c.in;
  std::vector<T> grad(pairs.distance.size());
  for (T& g : grad) g = T(draw(-8, 8)) / 4;
  std::vector<Wide<S>> own(in.x.size()), incoming(in.refs.size()), own_size(in.x.size()), incoming_size(in.refs.size());
  for (int64_t at = 0; at < kRoles * in.anchors; ++at) {
    const int64_t i = at % in.anchors, j = pairs.index[at];
    if (j < 0 || pairs.distance[at] == 0 || std::isinf(pairs.distance[at])) continue;
    for (int64_t k = 0; k < in.depth; ++k) {
      const Wide<S> a = Computed<S>(in.x[i * in.depth + k]), b = Computed<S>(in.refs[j * in.depth + k]);
      const Wide<S> flow = (a - b) * grad[at] / pairs.distance[at];
      own[i * in.depth + k] += flow, own_size[i * in.depth + k] += std::abs(flow);
      incoming[j * in.depth + k] -= flow, incoming_size[j * in.depth + k] += std::abs(flow);
    }
  }
  const auto check = [&](const char* path, bool with_own, bool with_incoming) {
    const std::vector<S> scanned = launch_gradient(in, pairs, grad, with_own, with_incoming, false, seed + draw(0, 1));
    const std::vector<S> sorted = launch_gradient(in, pairs, grad, with_own, with_incoming, true, seed + draw(2, 3));
    if (!scanned.empty() && std::memcmp(scanned.data(), sorted.data(), scanned.size() * sizeof(S))) c.fail(path, "the scan and the sort differ");
    const double rounding = (in.anchors + 8) * std::numeric_limits<T>::epsilon() + (std::is_same_v<S, T> ? 0 : 1.0 / 256);
    for (size_t at = 0; at < scanned.size(); ++at) {
      const Wide<S> expected = (with_own ? own[at] : 0) + (with_incoming ? incoming[at] : 0);
      const Wide<S> size = (with_own ? own_size[at] : 0) + (with_incoming ? incoming_size[at] : 0);
      if (!(std::abs(Computed<S>(scanned[at]) - expected) <= rounding * size + std::numeric_limits<T>::min()))
        c.fail(path, "row " + std::to_string(at / in.depth) + " column " + std::to_string(at % in.depth) + " is " + text(Computed<S>(scanned[at])) +
                         ", expected " + text(expected));
    }
  };
  check("grad_x", true, in.self);
  if (!in.self) check("grad_refs", false, true);
}

// splits 0: the small path.
template <class S>
void check(const Case<S>& c, int64_t splits, bool gradient) {
  using T = Computed<S>;
  const char* path = splits ? "tiled" : "small";
  const auto run = [&](uint64_t seed) { return splits ? launch_tiled<S, T>(c.in, splits, seed) : launch_small<S, T>(c.in, seed); };
  try {
    const uint64_t seed = random_bits() & ~uint64_t{1};
    const Output<T> out = run(seed);
    if (splits) check_frame<S, T>(c, seed);
    check_pairs(c, path, out, (splits ? 256 : 16) * std::numeric_limits<T>::epsilon());
    if (!same(out, run(seed + 3))) c.fail(path, "the result depends on the schedule");
    if (gradient && c.kind != denormal) check_gradient(c, out, seed);  // 1 / d overflows, as it does in torch
  } catch (const std::exception& caught) {
    std::fprintf(stderr, "%s, %s: %s\n", c.name.c_str(), path, caught.what());
    ++failures;
  }
}

const std::vector<int64_t> sizes = sanitized ? std::vector<int64_t>{2, 33, 129} : std::vector<int64_t>{1, 2, 31, 32, 33, 127, 128, 129, 200};
const std::vector<int64_t> depths = {1, 3, 16, 17, 123};

template <class S>
void check_type() {
  const int64_t share = sanitized ? 4 : std::is_same_v<S, float> ? 1 : 3;  // one case in so many
  for (int64_t anchors : sizes)
    for (int64_t candidates : sizes) {
      if (draw(1, share) > 1) continue;
      const Case<S> c(Kind(draw(0, kinds - 1)), Labels(draw(0, label_kinds - 1)), anchors, candidates, depths[draw(0, 4)], draw(0, 2) == 0,
                      draw(0, 1));
      check(c, draw(0, 1) ? usual_splits<Computed<S>>(c.in.anchors, c.in.candidates) : draw(1, 5), draw(0, 1));
      if (anchors * candidates <= 1100 || (anchors == 200 && candidates == 33)) check(c, 0, draw(0, 1));
    }
  for (int kind = 0; kind < kinds; ++kind)
    for (bool self : {false, true}) {
      if (draw(1, share) > 1) continue;
      const Case<S> wide(Kind(kind), few, sanitized ? 5 : 33, 300, depths[draw(0, 4)], self, draw(0, 1));  // several tiles to a split
      for (int64_t splits : {1, 2}) check(wide, splits, true);
      check(Case<S>(Kind(kind), few, 9, 70, depths[draw(0, 4)], self, draw(0, 1)), 0, true);
    }
  check(Case<S>(normal, few, 3, 0, 5, false, false), 0, true);     // no candidates at all
  const Case<S> long_rows(normal, few, 3, 4, 1030, false, false);  // more columns than a block of the gradient takes
  for (int64_t splits : {0, 1}) check(long_rows, splits, true);
}

}  // namespace

int main() {
  check_type<float>();
  check_type<double>();
  check_type<BFloat16>();
  std::printf("the CUDA kernels against brute force: %d cases failed\n", failures);
  return failures ? 1 : 0;
}
