// The CUDA kernels of margin_softmax against its definition, run by the emulator: results and gradients, in blocks of every size, each
// under two schedules.
#include "softmax_checks.h"

#include <cstdio>

using namespace zsml;
using namespace zsml::cuda::test;

namespace {

int failures = 0;

template <class S>
struct MarginCheck {
  using T = Computed<S>;
  using W = Wide<S>;
  int64_t samples, classes, depth;
  std::vector<S> x_rows, center_rows;
  Ids labels;
  int measure;
  double scale;
  std::vector<W> x = widened(x_rows, depth), centers = widened(center_rows, depth), origin = std::vector<W>(depth);
  std::vector<W> others = std::vector<W>(samples), slack = std::vector<W>(samples);

  struct Result {
    std::vector<T> others, target;
  };

  cuda::MarginSoftmaxRows<S> rows() const { return {x_rows.data(), center_rows.data(), labels.data(), samples, classes, depth, measure, scale}; }

  Result forward(EmulatedRun run) const {
    Result out{scratch<T>(samples, run.seed), scratch<T>(samples, run.seed)};
    cuda::run_margin_softmax<T>(run, rows(), out.others.data(), out.target.data());
    return out;
  }

  std::vector<S> backward(EmulatedRun run, const Result& grad, const Result& out, bool of_x, bool of_centers) const {
    std::vector<S> grad_x = scratch<S>(of_x ? x.size() : 0, run.seed), grad_centers = scratch<S>(of_centers ? centers.size() : 0, run.seed);
    cuda::run_margin_softmax_backward<T>(run, rows(), grad.others.data(), grad.target.data(), out.others.data(), out.target.data(),
                                         of_x ? grad_x.data() : nullptr, of_centers ? grad_centers.data() : nullptr);
    grad_x.insert(grad_x.end(), grad_centers.begin(), grad_centers.end());
    return grad_x;
  }

  bool usable(int64_t j) const { return is_finite(center_rows, j, depth); }
  bool has_target(int64_t i) const { return is_finite(x_rows, i, depth) && 0 <= labels[i] && labels[i] < classes && usable(labels[i]); }

  // The frame: squared lengths in it are what products round by.
  void find_origin() {
    W count = 0, squares = 0, mean_squared = 0;
    std::vector<W> mean(depth);
    for (int64_t j = 0; j < classes; ++j)
      for (int64_t k = 0; usable(j) && k < depth; ++k) {
        const W value = centers[j * depth + k];
        count += k == 0, squares += value * value, mean[k] += value;
      }
    for (W& m : mean) m /= std::max(count, W(1)), mean_squared += m * m;
    if (mean_squared > kCentreAbove * (squares / std::max(count, W(1)) - mean_squared)) origin = mean;
  }
  W norms(int64_t i, int64_t j) const {
    W sum = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const W a = std::abs(x[i * depth + k] - origin[k]), b = std::abs(centers[j * depth + k] - origin[k]);
      sum += a * a + b * b;
    }
    return sum;
  }

  // m_ij, and what it is off by as the search measures it.
  struct Measured {
    W value, off, size;
  };
  Measured measured(int64_t i, int64_t j) const {
    W product = 0, size = 0, square = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const W a = x[i * depth + k], b = centers[j * depth + k];
      product += a * b, size += std::abs(a * b), square += (a - b) * (a - b);
    }
    const W rounding = kRounding<S> * (depth + 8);
    if (measure == kInner) return {product, rounding * size, size};
    const W off = 2 * rounding * norms(i, j);
    if (measure == kSquaredDistance) return {square, off, square};
    const W d = std::sqrt(square);
    return {d, std::min(d > 0 ? off / d : W(INFINITY), std::sqrt(off)), d};
  }
  // By how much e = e^t is wrong if t is by this much, e being 1 at most.
  static W wrong(W e, W by) { return by < 40 ? std::min(W(1), e * std::expm1(by)) : 1; }
  W logit(const Measured& m) const { return W(measure == kInner ? scale : -scale) * m.value; }

  void check_forward(const Result& out) {
    find_origin();
    std::vector<W> target(samples), target_slack(samples);
    for (int64_t i = 0; i < samples; ++i) {
      W top = -INFINITY, sum = 0, off = 0, most = 0;
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t j = 0; j < classes; ++j) {
          if (j == labels[i] || !usable(j)) continue;
          const Measured m = measured(i, j);
          if (pass == 0) top = std::max(top, logit(m)), most = std::max(most, W(scale) * m.off);
          if (pass == 1) sum += std::exp(logit(m) - top), off += wrong(std::exp(logit(m) - top), W(scale) * m.off);
        }
      others[i] = sum > 0 ? top + std::log(sum) : W(-INFINITY);
      const W rounding = kRounding<S> * (std::log1p(W(classes)) + std::abs(others[i]) + 64);
      slack[i] = sum > 0 ? rounding + (most < 1 ? std::log1p(off / sum) : most) : 0;
      if (has_target(i)) {
        const Measured m = measured(i, labels[i]);
        target[i] = m.value, target_slack[i] = kRounding<S> * (depth + 16) * m.size + std::numeric_limits<T>::min();
      } else {
        target[i] = NAN;
      }
      if (!is_finite(x_rows, i, depth)) others[i] = NAN;
    }
    compare("others", out.others, others, slack);
    compare("target", out.target, target, target_slack);
  }

  void check_backward(const Result& grad, const std::vector<S>& got) const {
    Flows<S> flows(x.size(), centers.size());
    const auto add = [&](int64_t i, int64_t j, int64_t k, W to_x, W to_center, W off_x, W off_center) {
      flows.x[i * depth + k] += to_x, flows.x_slack[i * depth + k] += off_x;
      flows.refs[j * depth + k] += to_center, flows.refs_slack[j * depth + k] += off_center;
    };
    const W sums = kRounding<S> * (classes + samples + depth + 64);
    for (int64_t i = 0; i < samples; ++i)
      for (int64_t j = 0; j < classes; ++j) {
        if (!has_target(i) || !usable(j)) continue;
        const Measured m = measured(i, j);
        const bool own = j == labels[i];
        const W factor = W(measure == kInner ? scale : -scale) * grad.others[i], e = own ? 0 : std::exp(logit(m) - others[i]);
        const W exact = own ? grad.target[i] : factor * e;
        const W floor = std::sqrt(kRounding<S> * norms(i, j));
        // What the weight is off by, then how the difference of the two rows cancels in the product.
        const W weight_off = std::abs(exact) * sums + (own ? 0 : std::abs(factor) * wrong(e, 2 * slack[i] + 2 * W(scale) * m.off));
        const W unsure = own || measure != kDistance ? 0 : std::min(W(1), 2 * m.off / m.value);
        for (int64_t k = 0; k < depth; ++k) {
          const W a = x[i * depth + k], b = centers[j * depth + k];
          if (measure == kInner) {
            add(i, j, k, exact * b, exact * a, std::abs(b) * weight_off, std::abs(a) * weight_off);
            continue;
          }
          const W over = measure == kSquaredDistance ? W(1) / 2 : m.value, flow = over > 0 ? exact * (a - b) / over : 0;
          const W lengths = own ? 0 : std::abs(a - origin[k]) + std::abs(b - origin[k]), most = std::max(over, measure == kDistance ? floor : W(0));
          const W apart = over > 0 ? std::abs(a - b) / over : 0;
          const W off = apart * (weight_off + std::abs(exact) * unsure) + (most > 0 ? (std::abs(exact) + weight_off) * sums * lengths / most : 0);
          add(i, j, k, flow, -flow, off, off);
        }
      }
    flows.check({got.begin(), got.begin() + samples * depth}, {got.begin() + samples * depth, got.end()});
  }
};

template <class S>
void check(Kind kind, int64_t samples, int64_t classes, int64_t depth, int measure, double scale, bool broken) {
  using T = Computed<S>;
  MarginCheck<S> check{samples,
                       classes,
                       depth,
                       draw_rows<S>(kind, samples, depth, broken),
                       draw_rows<S>(kind, classes, depth, broken),
                       draw_ids(samples, broken ? -1 : 0, broken ? classes : classes - 1),
                       measure,
                       scale};
  EmulatedRun run = draw_run(samples, classes, random_bits() & ~uint64_t{1});
  try {
    const auto out = check.forward(run);
    const typename MarginCheck<S>::Result grad{draw_gradient<T>(samples), draw_gradient<T>(samples)};
    const auto flows = check.backward(run, grad, out, true, true);
    auto alone = check.backward(run, grad, out, true, false);
    const auto centers_alone = check.backward(run, grad, out, false, true);
    alone.insert(alone.end(), centers_alone.begin(), centers_alone.end());
    run.seed += 3;
    const auto again = check.forward(run);
    if (!same(again.others, out.others) || !same(again.target, out.target) || !same(check.backward(run, grad, out, true, true), flows))
      throw std::runtime_error("the result depends on the schedule");
    if (!same(alone, flows)) throw std::runtime_error("a gradient depends on who else wants one");
    check.check_forward(out);
    check.check_backward(grad, flows);
  } catch (const std::exception& caught) {
    std::fprintf(stderr, "margin_softmax, %s%s, %zu bytes, B %d C %d D %d, measure %d, scale %g, blocks %d x %d: %s\n", kind_names[kind],
                 broken ? " broken" : "", sizeof(S), static_cast<int>(samples), static_cast<int>(classes), static_cast<int>(depth), measure, scale,
                 static_cast<int>(run.limits.rows), static_cast<int>(run.limits.columns), caught.what());
    ++failures;
  }
}

template <class S>
void check_type() {
  const std::vector<int64_t> sizes = sanitized ? std::vector<int64_t>{2, 33} : std::vector<int64_t>{1, 2, 33, 70};
  const std::vector<int64_t> depths = {1, 3, 7, 8, 40};
  const auto any = [](const std::vector<int64_t>& of) { return of[draw(0, static_cast<int64_t>(of.size()) - 1)]; };
  for (Kind kind : {whole, whole_far, normal, normal_far, tiny, clusters, duplicates})
    for (int64_t samples : sizes)
      for (int measure = 0; measure < kMeasures; ++measure) {
        if (draw(0, sanitized ? 5 : std::is_same_v<S, float> ? 0 : 1)) continue;
        if (kind == tiny && measure != kInner) continue;  // the squares vanish
        const double scale = (draw(0, 1) ? 0.25 : 16) / (kind == clusters || kind == duplicates ? 100 : 1);
        check<S>(kind, samples, any(sizes), any(depths), measure, scale, draw(0, 1));
      }
  for (int measure = 0; measure < kMeasures; ++measure) {
    check<S>(normal, 5, sanitized ? 300 : 1500, 5, measure, 1, true);  // more than a block of threads
    check<S>(normal, sanitized ? 40 : 300, 2, 5, measure, 1, true);    // many samples to a centre
  }
}

}  // namespace

int main() {
  check_type<float>();
  check_type<double>();
  check_type<BFloat16>();
  std::printf("the CUDA kernels of margin_softmax against its definition: %d cases failed\n", failures);
  return failures ? 1 : 0;
}
