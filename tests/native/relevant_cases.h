// Galleries in classes for the ranks of relevant items: the launches that prepare them, and the counts by brute force.
#pragma once

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>

#include "cuda_emulator.h"

#include "../../csrc/cuda/rank_relevant.cuh"
#include "cuda_memory.h"

namespace zsml::cuda::test {

// As rank_relevant.h has them. Classes may be empty, and rows may lie in none.
struct Classes {
  std::vector<int64_t> query_class, order, starts;

  int64_t queries() const { return static_cast<int64_t>(query_class.size()); }
  int64_t rows() const { return static_cast<int64_t>(order.size()); }
  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
};

inline Classes draw_classes(int64_t queries, int64_t rows, int64_t count, std::mt19937_64& random) {
  Classes c;
  std::vector<int64_t> class_of(rows);
  for (int64_t& own : class_of) own = static_cast<int64_t>(random() % (count + 1));  // the last one stands for no class
  c.starts.push_back(0);
  for (int64_t own = 0; own <= count; ++own) {
    for (int64_t j = 0; j < rows; ++j)
      if (class_of[j] == own) c.order.push_back(j);
    if (own < count) c.starts.push_back(static_cast<int64_t>(c.order.size()));
  }
  for (int64_t i = 0; i < queries; ++i) c.query_class.push_back(static_cast<int64_t>(random() % count));
  return c;
}

// The launches of csrc/cuda/rank_relevant_input.cuh: change the two together.
struct DeviceClasses {
  std::vector<int64_t> first;
  std::vector<int32_t> class_of;
  int32_t wrong = 0, largest = 0;
  int64_t total;

  DeviceClasses(const Classes& c, uint64_t seed) : first(scratch<int64_t>(c.queries() + 1, seed)), class_of(c.rows(), -1) {
    emulator::launch(seed, check_starts, ceil_div(c.count(), kClassThreads), kClassThreads, 0, c.starts.data(), c.count(), c.rows(), &wrong,
                     &largest);
    emulator::launch(seed, find_classes, ceil_div(c.rows(), kClassThreads), kClassThreads, 0, c.order.data(), c.starts.data(), c.rows(), c.count(),
                     class_of.data(), &wrong);
    emulator::launch(seed, find_offsets, 1, kOffsetThreads, 0, c.query_class.data(), c.starts.data(), c.queries(), c.count(), first.data(), &wrong);
    total = first.back();
  }
  Relevant device(const Classes& c) const { return {c.query_class.data(), c.order.data(), c.starts.data(), first.data(), class_of.data()}; }
};

// distance(i, j) of any ordered type -> int32 [3, T], straight from the definition
template <class Distance>
std::vector<int32_t> true_counts(const Classes& c, const Distance& distance) {
  std::vector<std::vector<int32_t>> counts(kCounts);
  std::vector<char> relevant(c.rows());
  for (int64_t i = 0; i < c.queries(); ++i) {
    std::vector<int64_t> own(c.order.begin() + c.starts[c.query_class[i]], c.order.begin() + c.starts[c.query_class[i] + 1]);
    std::fill(relevant.begin(), relevant.end(), 0);
    for (int64_t j : own) relevant[j] = 1;
    std::vector<decltype(distance(0, 0))> row(c.rows());
    for (int64_t j = 0; j < c.rows(); ++j) row[j] = distance(i, j);
    std::stable_sort(own.begin(), own.end(), [&](int64_t a, int64_t b) { return row[a] < row[b]; });
    for (int64_t p : own) {
      int32_t count[kCounts] = {};
      for (int64_t j = 0; j < c.rows(); ++j) {
        if (relevant[j]) continue;
        count[kNearer] += row[j] < row[p];
        count[kTied] += row[j] == row[p];
        count[kTiedBefore] += row[j] == row[p] && j < p;
      }
      for (int kind = 0; kind < kCounts; ++kind) counts[kind].push_back(count[kind]);
    }
  }
  for (int kind = 1; kind < kCounts; ++kind) counts[0].insert(counts[0].end(), counts[kind].begin(), counts[kind].end());
  return counts[0];
}

}  // namespace zsml::cuda::test
