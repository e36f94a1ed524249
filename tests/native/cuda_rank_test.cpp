// The CUDA kernels of rank_relevant against brute force, run by the emulator: values, then counts, each under two schedules.
#include "rank_launches.h"

#include <cmath>
#include <cstdio>
#include <type_traits>

using namespace zsml::cuda::test;

namespace {

int failures = 0;
std::mt19937_64 random_bits(3);
int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }

// Whole numbers make every Euclidean value exact, so that the counts are exact too, ties included.
enum Kind { whole, few_rows, constant, normal, outlier, zeros, kinds };
const char* const kind_names[] = {"whole", "few_rows", "constant", "normal", "outlier", "zeros"};

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

template <class S>
std::vector<S> draw_rows(Kind kind, int64_t count, int64_t depth) {
  std::vector<S> rows(count * depth);
  std::normal_distribution<double> gauss;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t which = draw(0, 4), zero = draw(0, 2);
    for (int64_t k = 0; k < depth; ++k) {
      const double values[] = {static_cast<double>(draw(-3, 3)),
                               std::sin(static_cast<double>(100 * which + k)),
                               0.75,
                               gauss(random_bits),
                               gauss(random_bits) * (r == 0 ? 1e6 : 1),
                               zero ? 0 : gauss(random_bits)};
      rows[r * depth + k] = static_cast<S>(values[kind]);
    }
  }
  return rows;
}

template <class S>
void check(Kind kind, int64_t queries, int64_t rows, int64_t depth, int64_t classes, bool cosine, bool in_shared) {
  using T = S;
  Embeddings<S> in{queries, rows, depth, draw_rows<S>(kind, queries, depth), draw_rows<S>(kind, rows, depth), std::vector<double>(depth), 1, cosine};
  if (kind == whole) in.scale = 0.5;
  if (!cosine)
    for (double& by : in.shift) by = draw(0, 1) ? 0.5 : 0;
  const std::string name = kind_names[kind] + std::string(cosine ? " cosine" : " euclidean") + (in_shared ? ", " : " in scratch, ") +
                           std::to_string(sizeof(S)) + " bytes, Q " + std::to_string(queries) + " N " + std::to_string(rows) + " D " +
                           std::to_string(depth) + " C " + std::to_string(classes);
  try {
    const Classes lists = draw_classes(queries, rows, classes, random_bits);
    const int64_t block = draw(0, 1) ? queries : draw(1, queries);
    const uint64_t seed = random_bits() & ~uint64_t{1};
    const Values<T> got = launch_rank_relevant<S, T>(in, lists, block, in_shared, seed);
    require(launch_rank_relevant<S, T>(in, lists, draw(1, queries), in_shared, seed + 3).out == got.out, "the result depends on schedule or block");
    if (got.out.empty()) return;
    const auto framed = [&](const std::vector<S>& set, int64_t r, int64_t k) {
      return static_cast<long double>(set[r * depth + k]) * in.scale - static_cast<T>(in.shift[k]);
    };
    // The values are what they should be, up to rounding; equal rows have equal ones.
    for (int64_t i = 0; i < queries; ++i)
      for (int64_t j = 0; j < rows; ++j) {
        long double product = 0, size = 0, square = 0;
        for (int64_t k = 0; k < depth; ++k) {
          const long double a = framed(in.query, i, k), b = framed(in.gallery, j, k);
          product += a * b, size += std::abs(a * b), square += b * b;
        }
        const long double length = std::sqrt(square);
        const long double expected = !cosine ? square - 2 * product : length > 0 ? -product / length : 0;
        const long double rounding = static_cast<long double>(depth + 4) * std::numeric_limits<T>::epsilon() *
                                     (!cosine      ? square + 2 * size
                                      : length > 0 ? size / length
                                                   : 0);
        require(std::abs(got.all[i * rows + j] - expected) <= rounding, "value " + std::to_string(i) + ", " + std::to_string(j) + " is " +
                                                                            std::to_string(got.all[i * rows + j]) + ", expected " +
                                                                            std::to_string(static_cast<double>(expected)));
        if (kind == whole && !cosine) require(got.all[i * rows + j] == expected, "whole numbers are exact");
        for (int64_t other = 0; other < std::min<int64_t>(j, 8); ++other)
          if (std::equal(&in.gallery[j * depth], &in.gallery[j * depth] + depth, &in.gallery[other * depth]))
            require(got.all[i * rows + j] == got.all[i * rows + other], "equal rows are at different distances");
      }
    require(got.out == true_counts(lists, [&](int64_t i, int64_t j) { return got.all[i * rows + j]; }), "the counts are wrong");
  } catch (const std::exception& caught) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), caught.what());
    ++failures;
  }
}

// Under a sanitizer everything takes far longer.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

}  // namespace

int main() {
  for (int kind = 0; kind < kinds * (sanitized ? 1 : 5); ++kind)
    for (bool cosine : {false, true})
      for (bool in_shared : {true, false}) {
        if (sanitized && draw(0, 1)) continue;
        check<float>(Kind(kind % kinds), draw(1, 9), sanitized ? 150 : 400, draw(1, 40), draw(1, 5), cosine, in_shared);
        check<double>(Kind(kind % kinds), draw(1, 9), sanitized ? 70 : 300, draw(1, 40), draw(1, 5), cosine, in_shared);
      }
  for (int64_t rows : {1, 2, 33, 129})
    for (int64_t queries : {1, 130}) check<float>(whole, sanitized ? (queries + 9) / 10 : queries, rows, 3, 2, false, true);
  check<float>(normal, 2, sanitized ? 300 : 2500, 2, 1, false, true);  // one class: many relevant, few others
  check<float>(whole, 2, sanitized ? 300 : 6000, 2, 1, false, true);   // too many for shared memory
  std::printf("the CUDA kernels of rank_relevant against brute force: %d cases failed\n", failures);
  return failures ? 1 : 0;
}
