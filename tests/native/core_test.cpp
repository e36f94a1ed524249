// The CPU core against brute force in long double, on every instruction set of this machine: what runs under the sanitizers.
// Random and awkward shapes, ties, rows with NaN, several threads. The finer cases are in the pytest files beside this one.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "hardest_pairs_search.h"
#include "pair_gradient.h"
#include "parallel.h"

using namespace zsml::cpu;
using zsml::kRoles;

#define CHECK(condition, ...)                                                      \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: %s failed; ", __FILE__, __LINE__, #condition);  \
      std::fprintf(stderr, __VA_ARGS__), std::fprintf(stderr, "\n"), std::exit(1); \
    }                                                                              \
  } while (false)

namespace {

std::mt19937_64 random_bits(7);
int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }

std::vector<Isa> instruction_sets() {
  std::vector<Isa> found;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (available(isa)) found.push_back(isa);
  return found;
}

template <class T>
struct Set {
  std::vector<T> values;
  std::vector<int64_t> label, modality;
  int64_t count, depth;
  Rows<T> rows() const { return {values.data(), count, depth}; }
};

// Around `offset`: whole numbers at most 3 away, whose distances are exact so that ties are ties, or normal ones. A few rows not finite.
template <class T>
Set<T> draw_set(int64_t count, int64_t depth, bool whole, T offset) {
  Set<T> set{std::vector<T>(count * depth), std::vector<int64_t>(count), std::vector<int64_t>(count), count, depth};
  std::normal_distribution<T> normal(offset, 1);
  for (T& value : set.values) value = whole ? offset + T(draw(-3, 3)) : normal(random_bits);
  for (int64_t& id : set.label) id = draw(-2, 2) * (int64_t(1) << 40);
  for (int64_t& id : set.modality) id = draw(0, 2);
  for (int64_t i = 0; i < count; ++i)
    if (draw(0, 19) == 0) set.values[i * depth + draw(0, depth - 1)] = draw(0, 1) ? NAN : -INFINITY;
  return set;
}

template <class T>
bool finite(const Set<T>& set, int64_t i) {
  for (int64_t k = 0; k < set.depth; ++k)
    if (!std::isfinite(set.values[i * set.depth + k])) return false;
  return true;
}

template <class T>
long double distance_of(const Set<T>& a, int64_t i, const Set<T>& b, int64_t j) {
  long double sum = 0;
  for (int64_t k = 0; k < a.depth; ++k) {
    const long double difference = static_cast<long double>(a.values[i * a.depth + k]) - b.values[j * b.depth + k];
    sum += difference * difference;
  }
  return std::sqrt(sum);
}

template <class T>
void check_pairs(const Set<T>& x, const Set<T>& refs, const std::vector<int64_t>& exclude, bool whole, const std::vector<T>& distance,
                 const std::vector<int64_t>& index) {
  const long double rounding = 32 * std::numeric_limits<T>::epsilon();
  for (int64_t i = 0; i < x.count; ++i)
    for (int role = 0; role < kRoles; ++role) {
      const T got = distance[role * x.count + i];
      const int64_t chosen = index[role * x.count + i];
      int64_t expected = -1;
      long double best = zsml::is_positive(role) ? -INFINITY : INFINITY;
      if (!finite(x, i)) best = NAN;
      for (int64_t j = 0; finite(x, i) && j < refs.count; ++j) {
        const int own_role = zsml::role_of(refs.label[j] == x.label[i], refs.modality[j] == x.modality[i]);
        if (own_role != role || j == exclude[i] || !finite(refs, j)) continue;
        const long double d = distance_of(x, i, refs, j);
        if (zsml::is_positive(role) ? d > best : d < best) best = d, expected = j;
      }
      CHECK((chosen < 0) == (expected < 0), "anchor %d role %d: chose %d, expected %d", int(i), role, int(chosen), int(expected));
      if (expected < 0) {
        CHECK(std::isnan(best) ? std::isnan(got) : got == best, "anchor %d role %d: distance %g", int(i), role, double(got));
      } else if (whole) {
        CHECK(chosen == expected, "anchor %d role %d: chose %d, expected %d", int(i), role, int(chosen), int(expected));
      }
      if (expected >= 0) {
        const long double own = distance_of(x, i, refs, chosen);
        CHECK(std::abs(own - best) <= rounding * best, "anchor %d role %d: %Lg is not the hardest, %Lg is", int(i), role, own, best);
        CHECK(std::abs(got - own) <= rounding * own, "anchor %d role %d: distance %g, expected %Lg", int(i), role, double(got), own);
      }
    }
}

template <class T>
void check_gradient(const Set<T>& x, const Set<T>& refs, bool self, const std::vector<T>& distance, const std::vector<int64_t>& index) {
  std::vector<T> grad(distance.size()), grad_x(x.values.size()), grad_refs(refs.values.size());
  for (T& g : grad) g = T(draw(-8, 8)) / 4;
  std::vector<long double> want_x(grad_x.size(), 0), want_refs(grad_refs.size(), 0);
  for (int64_t at = 0; at < kRoles * x.count; ++at) {
    const int64_t i = at % x.count, j = index[at];
    if (j < 0 || distance[at] == 0) continue;
    for (int64_t k = 0; k < x.depth; ++k) {
      const long double flow = (static_cast<long double>(x.values[i * x.depth + k]) - refs.values[j * x.depth + k]) * grad[at] / distance[at];
      want_x[i * x.depth + k] += flow;
      (self ? want_x : want_refs)[j * x.depth + k] -= flow;
    }
  }
  const PairGradient<T, T> gradient(x.rows(), refs.rows(), grad.data(), distance.data(), index.data(), &zsml::test::parallel_for);
  gradient.of_anchors(grad_x.data(), self);
  if (!self) gradient.of_refs(grad_refs.data());
  const long double slack = 64 * std::numeric_limits<T>::epsilon() * (1 + x.count);  // a row may be chosen by every anchor
  for (size_t k = 0; k < want_x.size(); ++k) CHECK(std::abs(grad_x[k] - want_x[k]) <= slack, "grad_x[%d] is %g", int(k), double(grad_x[k]));
  for (size_t k = 0; k < want_refs.size() && !self; ++k)
    CHECK(std::abs(grad_refs[k] - want_refs[k]) <= slack, "grad_refs[%d] is %g", int(k), double(grad_refs[k]));
}

template <class T>
void check_round(Isa isa, int64_t anchors, int64_t candidates, int64_t depth) {
  const bool whole = draw(0, 1), self = draw(0, 2) == 0;
  const T offset = T(draw(0, 1) ? 1000 : 0);
  const Set<T> x = draw_set<T>(anchors, depth, whole, offset);
  const Set<T> refs = self ? x : draw_set<T>(candidates, depth, whole, offset);
  std::vector<int64_t> exclude(anchors);
  for (int64_t i = 0; i < anchors; ++i) exclude[i] = self ? i : draw(-1, candidates);
  std::vector<T> first_distance;
  std::vector<int64_t> first_index;
  for (int threads : {1, 2, 5}) {
    zsml::test::threads = threads;
    std::vector<T> distance(kRoles * anchors);
    std::vector<int64_t> index(kRoles * anchors);
    HardestPairsSearch<T, T>(x.rows(), x.label.data(), x.modality.data(), refs.rows(), refs.label.data(), refs.modality.data(), exclude.data(),
                             &zsml::test::parallel_for, threads, isa)
        .run(distance.data(), index.data());
    check_pairs(x, refs, exclude, whole, distance, index);
    check_gradient(x, refs, self, distance, index);
    if (threads == 1) first_index = index;
    CHECK(index == first_index, "%d threads chose other pairs than one", threads);
  }
}

template <class T>
void check_tile(Isa isa) {
  const ExtremesKernel<T>& kernel = extremes_kernel<T>(isa);
  for (int64_t depth : {0, 1, 2, 77}) {
    Aligned<T> a(depth * kernel.rows), b(depth * kernel.cols), product(kernel.rows * kernel.cols);
    for (int64_t k = 0; k < depth * kernel.rows; ++k) a.memory[k] = T(draw(-9, 9));
    for (int64_t k = 0; k < depth * kernel.cols; ++k) b.memory[k] = T(draw(-9, 9));
    kernel.tile(a.memory, b.memory, depth, product.memory);
    for (int i = 0; i < kernel.rows; ++i)
      for (int j = 0; j < kernel.cols; ++j) {
        T expected = 0;
        for (int64_t k = 0; k < depth; ++k) expected += a.memory[k * kernel.rows + i] * b.memory[k * kernel.cols + j];
        CHECK(product.memory[i * kernel.cols + j] == expected, "%s tile (%d, %d)", name(isa), i, j);
      }
  }
}

template <class T>
void check_all(Isa isa) {
  check_tile<T>(isa);
  for (int64_t count : {1, 13, 14, 15, 33})
    for (int64_t depth : {1, 3, 20}) check_round<T>(isa, count, count % 14, depth);
  for (int round = 0; round < 20; ++round) check_round<T>(isa, draw(1, 130), draw(0, 200), draw(1, 70));
  check_round<T>(isa, 3, 150, 20000);  // several chunks of candidates
}

}  // namespace

int main() {
  for (Isa isa : instruction_sets()) {
    check_all<float>(isa);
    check_all<double>(isa);
    std::printf("%s: ok\n", name(isa));
  }
}
