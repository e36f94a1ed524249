// The CUDA kernels of supcon against its definition, run by the emulator: results and gradients, in blocks of every size, each under two
// schedules.
#include "softmax_checks.h"

#include <cstdio>

using namespace zsml;
using namespace zsml::cuda::test;

namespace {

int failures = 0;

template <class T>
struct SupconResult {
  std::vector<T> loss, lse, pull;
  std::vector<int64_t> positives;
  bool operator==(const SupconResult& b) const {
    return same(loss, b.loss) && same(lse, b.lse) && same(pull, b.pull) && same(positives, b.positives);
  }
};

template <class S>
struct SupconCheck {
  using T = Computed<S>;
  using W = Wide<S>;
  const Input<S>& in;
  double temperature;
  int pairs;
  bool per_pair;
  std::vector<W> x = widened(in.x, in.depth), refs = widened(in.refs, in.depth);
  std::vector<W> lse = std::vector<W>(in.anchors), slack = std::vector<W>(in.anchors), pull = std::vector<W>(in.anchors);
  std::vector<int64_t> positives = std::vector<int64_t>(in.anchors);

  cuda::SupconRows<S> rows() const {
    return {in.x.data(),
            in.refs.data(),
            in.labels.data(),
            in.modality.data(),
            in.ref_labels.data(),
            in.ref_modality.data(),
            in.excluded(),
            in.anchors,
            in.candidates,
            in.depth,
            in.self,
            temperature,
            pairs,
            per_pair};
  }

  SupconResult<T> forward(EmulatedRun run) const {
    const auto values = [&] { return scratch<T>(in.anchors, run.seed); };
    SupconResult<T> out{values(), values(), values(), scratch<int64_t>(in.anchors, run.seed)};
    cuda::run_supcon<T>(run, rows(), out.loss.data(), out.lse.data(), out.positives.data(), out.pull.data());
    return out;
  }

  std::pair<std::vector<S>, std::vector<S>> backward(EmulatedRun run, const std::vector<T>& grad, const SupconResult<T>& out, bool need_x) const {
    std::vector<S> grad_x = scratch<S>(in.x.size(), run.seed), grad_refs = scratch<S>(in.self ? 0 : in.refs.size(), run.seed);
    cuda::run_supcon_backward<T>(run, rows(), grad.data(), out.lse.data(), out.positives.data(), out.pull.data(), need_x ? grad_x.data() : nullptr,
                                 in.self ? nullptr : grad_refs.data());
    return {grad_x, grad_refs};
  }

  bool candidate(int64_t i, int64_t j) const {
    if (!is_finite(in.x, i, in.depth) || !is_finite(in.refs, j, in.depth) || (in.self ? j == i : in.excludes && j == in.exclude[i])) return false;
    return pairs == 0 || (in.modality[i] == in.ref_modality[j]) == (pairs == 1);
  }
  bool positive(int64_t i, int64_t j) const { return in.labels[i] == in.ref_labels[j]; }

  // s_ij, and the sum of its terms' sizes.
  std::pair<W, W> logit(int64_t i, int64_t j) const {
    W sum = 0, size = 0;
    for (int64_t k = 0; k < in.depth; ++k) {
      const W term = x[i * in.depth + k] * refs[j * in.depth + k] / W(temperature);
      sum += term, size += std::abs(term);
    }
    return {sum, size};
  }

  void check_forward(const SupconResult<T>& out) {
    std::vector<W> loss(in.anchors), loss_slack(in.anchors), lse_slack(in.anchors), pull_slack(in.anchors);
    for (int64_t i = 0; i < in.anchors; ++i) {
      W top = -INFINITY, sum = 0, mean = 0, largest = 0;
      for (int pass = 0; pass < 3; ++pass) {
        for (int64_t j = 0; j < in.candidates; ++j) {
          if (!candidate(i, j)) continue;
          const auto [s, size] = logit(i, j);
          const bool in_sum = !per_pair || !positive(i, j);
          if (pass == 0) largest = std::max(largest, size), positives[i] += positive(i, j), mean += positive(i, j) ? s : 0;
          if (pass == 0 && in_sum) top = std::max(top, s);
          if (pass == 1 && in_sum) sum += std::exp(s - top);
          if (pass == 2 && per_pair && positive(i, j)) loss[i] += softplus_of(lse[i] - s), pull[i] += sigmoid_of(lse[i] - s);
        }
        if (pass == 1) lse[i] = sum > 0 ? top + std::log(sum) : W(-INFINITY);
      }
      if (!per_pair) loss[i] = positives[i] ? lse[i] - mean / positives[i] : 0;
      slack[i] = kRounding<S> * ((in.depth + 16) * (largest + 1) + std::log1p(W(in.candidates)));
      lse_slack[i] = slack[i];
      loss_slack[i] = 2 * slack[i] * (per_pair ? positives[i] : 1) + 64 * kRounding<S> * std::abs(loss[i]);
      pull_slack[i] = pull[i] * (std::expm1(2 * slack[i]) + 64 * kRounding<S>)+positives[i] * std::numeric_limits<T>::min();
      if (!is_finite(in.x, i, in.depth)) loss[i] = lse[i] = NAN;
    }
    compare("loss", out.loss, loss, loss_slack);
    compare("lse", out.lse, lse, lse_slack);
    compare("pull", out.pull, pull, pull_slack);
    if (out.positives != positives) throw std::runtime_error("the numbers of positives are wrong");
  }

  void check_backward(const std::vector<T>& grad, const std::pair<std::vector<S>, std::vector<S>>& got) const {
    Flows<S> flows(in.x.size(), in.self ? 0 : in.refs.size());
    const W sums = kRounding<S> * (in.candidates + in.anchors + in.depth + 64);
    for (int64_t i = 0; i < in.anchors; ++i)
      for (int64_t j = 0; j < in.candidates; ++j) {
        if (!candidate(i, j) || !positives[i] || !std::isfinite(lse[i])) continue;
        const W s = logit(i, j).first, e = std::exp(s - lse[i]), g = grad[i] / W(temperature);
        const W part = !per_pair ? e : positive(i, j) ? -sigmoid_of(lse[i] - s) : pull[i] * e;
        const W less = !per_pair && positive(i, j) ? W(1) / positives[i] : W(0);
        const W weight = g * (part - less), off = std::abs(g) * (std::abs(part) * (std::expm1(4 * slack[i]) + sums) + less * sums);
        for (int64_t k = 0; k < in.depth; ++k) {
          const int64_t a = i * in.depth + k, b = j * in.depth + k;
          flows.x[a] += weight * refs[b], flows.x_slack[a] += off * std::abs(refs[b]);
          (in.self ? flows.x : flows.refs)[b] += weight * x[a], (in.self ? flows.x_slack : flows.refs_slack)[b] += off * std::abs(x[a]);
        }
      }
    flows.check(got.first, got.second);
  }
};

template <class S>
void check_supcon(const Case<S>& c, double temperature, int pairs, bool per_pair) {
  SupconCheck<S> check{c.in, temperature, pairs, per_pair};
  EmulatedRun run = draw_run(c.in.anchors, c.in.candidates, random_bits() & ~uint64_t{1});
  try {
    const auto out = check.forward(run);
    const auto grad = draw_gradient<Computed<S>>(c.in.anchors);
    const auto flows = check.backward(run, grad, out, true), candidates_only = check.backward(run, grad, out, c.in.self);
    run.seed += 3;
    const auto again = check.backward(run, grad, out, true);
    if (!(check.forward(run) == out) || !same(again.first, flows.first) || !same(again.second, flows.second))
      throw std::runtime_error("the result depends on the schedule");
    if (!same(candidates_only.second, flows.second)) throw std::runtime_error("grad_refs depends on who else wants a gradient");
    check.check_forward(out);
    check.check_backward(grad, flows);
  } catch (const std::exception& caught) {
    std::fprintf(stderr, "supcon, %s, temperature %g, pairs %d, per pair %d, blocks %d x %d: %s\n", c.name.c_str(), temperature, pairs, per_pair,
                 static_cast<int>(run.limits.rows), static_cast<int>(run.limits.columns), caught.what());
    ++failures;
  }
}

template <class S>
void check_type() {
  const std::vector<int64_t> sizes = sanitized ? std::vector<int64_t>{2, 33} : std::vector<int64_t>{1, 2, 33, 70};
  const std::vector<int64_t> depths = {1, 3, 7, 8, 40};
  for (Kind kind : {whole, normal, tiny, clusters, duplicates})
    for (int64_t anchors : sizes)
      for (int pairs = 0; pairs < kPairs; ++pairs)
        for (bool per_pair : {false, true}) {
          if (draw(0, sanitized ? 5 : std::is_same_v<S, float> ? 0 : 1)) continue;
          const int64_t candidates = sizes[draw(0, static_cast<int64_t>(sizes.size()) - 1)];
          const Case<S> c(kind, Labels(draw(0, label_kinds - 1)), anchors, candidates, depths[draw(0, 4)], draw(0, 1), draw(0, 1));
          const double unit = kind == clusters || kind == duplicates ? 1000 : 1;
          check_supcon(c, unit * (draw(0, 1) ? 0.07 : 2), pairs, per_pair);
        }
  check_supcon(Case<S>(normal, few, 3, 0, 5, false, false), 1, 0, false);  // no candidates at all
  check_supcon(Case<S>(normal, few, 3, 0, 5, false, false), 1, 0, true);
  check_supcon(Case<S>(normal, few, 3, sanitized ? 300 : 1500, 5, false, true), 1, 0, true);  // more than a block of threads
}

}  // namespace

int main() {
  check_type<float>();
  check_type<double>();
  check_type<BFloat16>();
  std::printf("the CUDA kernels of supcon against its definition: %d cases failed\n", failures);
  return failures ? 1 : 0;
}
