// The kernels of csrc/cuda/modality_triplet.cuh against plain loops, run by the emulator.
#include "cuda_emulator.h"

#include "../../csrc/cuda/modality_triplet.cuh"

#include <cstdio>
#include <random>
#include <vector>

#include "cuda_memory.h"

using namespace zsml;
using namespace zsml::cuda;
using emulator::launch;

namespace {

int failures = 0;

template <class T>
void expect_near(const char* what, int64_t at, T got, double truth, double slack) {
  const double error = std::abs(static_cast<double>(got) - truth);
  if (std::isnan(truth) ? std::isnan(got) : error <= slack * std::max(1.0, std::abs(truth))) return;
  if (++failures < 20) std::printf("%s[%lld]: got %.9g, expected %.9g\n", what, static_cast<long long>(at), static_cast<double>(got), truth);
}

template <class T>
void check_rows(int64_t count, int64_t depth, uint64_t seed) {
  const double slack = sizeof(T) == 8 ? 1e-13 : 2e-6;
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> x(count * depth), gradient(count * depth);
  for (T& v : x) v = static_cast<T>(normal(random));
  for (T& v : gradient) v = static_cast<T>(normal(random));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t k = 0; k < depth; ++k) {
      T& v = x[i * depth + k];
      if (i % 7 == 1) v = 0;
      if (i % 7 == 2) v *= std::numeric_limits<T>::max() / 64;
      if (i % 7 == 3) v *= std::numeric_limits<T>::min() * 16;
      if (i % 7 == 4 && k == depth / 2) v = i % 2 ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::quiet_NaN();
    }
  std::vector<T> unit = test::scratch<T>(count * depth, seed), out = test::scratch<T>(count * depth, seed);
  std::vector<double> length = test::scratch<double>(count, seed);
  const int64_t blocks = (count + kUnitThreads / kWarp - 1) / (kUnitThreads / kWarp);
  launch(seed, unit_rows<T, T>, blocks, kUnitThreads, 0, x.data(), count, depth, unit.data(), length.data());
  for (int64_t i = 0; i < count; ++i)
    if (i % 7 == 4)
      for (int64_t k = 0; k < depth; ++k) gradient[i * depth + k] = 0;  // what a row that is not finite takes part in is nothing
  launch(seed, project_rows<T, T>, blocks, kUnitThreads, 0, gradient.data(), unit.data(), length.data(), count, depth, out.data());
  for (int64_t i = 0; i < count; ++i) {
    long double square = 0, along = 0;
    bool finite = true;
    for (int64_t k = 0; k < depth; ++k) {
      const long double v = x[i * depth + k];
      finite = finite && std::isfinite(x[i * depth + k]);
      square += v * v;
    }
    const long double own = finite && square > 0 ? std::sqrt(square) : 1;
    expect_near("length, relative", i, length[i] / static_cast<double>(own), 1, slack);
    for (int64_t k = 0; k < depth; ++k) along += finite ? gradient[i * depth + k] * (x[i * depth + k] / own) : 0;
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t at = i * depth + k;
      expect_near("unit", at, unit[at], finite ? static_cast<double>(x[at] / own) : NAN, slack);
      const long double truth = finite ? (gradient[at] - along * (x[at] / own)) / own : 0;
      if (std::abs(truth) < std::numeric_limits<T>::max())
        expect_near("projected", at, static_cast<double>(out[at] * own), static_cast<double>(truth * own), 50 * slack);
    }
  }
}

template <class T>
void check_loss(int64_t anchors, int terms, int weighting, double beta, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(0.2, 1.4);
  std::vector<T> distance(kRoles * anchors), slope = test::scratch<T>(kRoles * anchors, seed), loss = test::scratch<T>(1, seed);
  for (int64_t at = 0; at < kRoles * anchors; ++at) {
    const double missing = is_positive(static_cast<int>(at / anchors)) ? -INFINITY : INFINITY;
    distance[at] = static_cast<T>(random() % 9 ? uniform(random) : missing);
  }
  const double margin = 0.2;
  launch(seed, triplet_loss<T>, 1, kLossThreads, 0, distance.data(), anchors, terms, margin, beta, weighting, loss.data(), slope.data());
  // The weights held fixed where they are detached; slopes by central differences of the loss in double.
  std::vector<double> d(distance.begin(), distance.end());
  const auto value = [&](const double* fixed, double* weights) {
    double mean_phi[kTerms] = {}, hardness[kTerms] = {}, used = 0, mean = 0, total = 0, sum = 0, plain = 0;
    for (int t = 0; t < kTerms; ++t) {
      if (!(terms >> t & 1)) continue;
      ++used;
      for (int64_t i = 0; i < anchors; ++i) {
        const double v = d[(t == 0 ? kWithinPos : kCrossPos) * anchors + i] - d[(t == 2 ? kCrossNeg : kWithinNeg) * anchors + i] + margin;
        mean_phi[t] += (beta == 0 ? std::max(v, 0.0) : std::log1p(std::exp(beta * v)) / beta) / anchors;
        hardness[t] += 1 / (1 + std::exp(-beta * v)) / anchors;
      }
      mean += hardness[t];
      plain += mean_phi[t];
    }
    for (int t = 0; t < kTerms; ++t)
      if (terms >> t & 1) {
        const double w = fixed ? fixed[t] : mean / used / std::max(hardness[t], 0.1);
        if (weights) weights[t] = w;
        total += w * mean_phi[t], sum += w;
      }
    return weighting == kEqual ? plain / used : weighting == kAdaptive ? total : sum * plain / used;
  };
  double weights[kTerms] = {};
  expect_near("loss", 0, loss[0], value(nullptr, weights), 1e-6);
  for (int64_t at = 0; at < kRoles * anchors; ++at) {
    if (std::isinf(d[at])) continue;
    const double before = d[at], step = 1e-5;
    d[at] = before + step;
    const double above = value(weighting == kAdaptive ? weights : nullptr, nullptr);
    d[at] = before - step;
    const double below = value(weighting == kAdaptive ? weights : nullptr, nullptr);
    d[at] = before;
    expect_near("slope", at, slope[at] * anchors, (above - below) / (2 * step) * anchors, 1e-3);
  }
  std::vector<T> scaled = test::scratch<T>(kRoles * anchors, seed);
  const T factor = 3;
  launch(seed, scale_slopes<T>, (kRoles * anchors + 31) / 32, 32, 0, &factor, slope.data(), kRoles * anchors, scaled.data());
  for (int64_t at = 0; at < kRoles * anchors; ++at) expect_near("scaled", at, scaled[at], 3.0 * slope[at], 1e-6);
}

}  // namespace

int main() {
  for (uint64_t seed : {1, 2}) {
    for (int64_t count : {1, 8, 9, 30})
      for (int64_t depth : {1, 3, 32, 100}) check_rows<float>(count, depth, seed), check_rows<double>(count, depth, seed);
    for (int64_t anchors : {1, 40, 300})
      for (int terms : {1, 4, 7})
        for (int weighting : {kEqual, kAdaptive, kReleased})
          check_loss<float>(anchors, terms, weighting, 5, seed), check_loss<double>(anchors, terms, weighting, 5, seed);
    check_loss<double>(40, 7, kEqual, 0, seed);
  }
  std::printf(failures ? "%d failures\n" : "all kernels of modality_triplet agree with plain loops\n", failures);
  return failures != 0;
}
