// An order written from counts: stable, and without a comparison.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace zsml::cpu {

// Calls emit(place, i) for i = 0 .. n - 1, place being i's position by ascending (at(i), i); 0 <= at(i) < bins, n < 2^31.
// The items are taken as four quarters in step: neighbours often have the same key, and with one table of counts each would
// have to wait until the one before has been written back.
template <class At, class Emit>
void counting_sort(int64_t n, int64_t bins, std::vector<int32_t>& tables, const At& at, const Emit& emit) {
  tables.assign(static_cast<size_t>(4 * bins), 0);
  int32_t* table = tables.data();  // [bins][4]
  const int64_t quarter = n / 4;
  const auto in_step = [&](auto&& body) {
    for (int64_t i = 0; i < quarter; ++i)
      for (int64_t t = 0; t < 4; ++t) body(t * quarter + i, t);
    for (int64_t i = 4 * quarter; i < n; ++i) body(i, 3);
  };
  in_step([&](int64_t i, int64_t t) { ++table[4 * at(i) + t]; });
  int32_t sum = 0;
  for (int64_t b = 0; b < 4 * bins; ++b) {
    const int32_t here = table[b];
    table[b] = sum;
    sum += here;
  }
  in_step([&](int64_t i, int64_t t) { emit(table[4 * at(i) + t]++, i); });
}

}  // namespace zsml::cpu
