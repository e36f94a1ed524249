// What torch's parallel_for does, on std::thread: contiguous pieces of at least `grain`, exceptions rethrown in the caller.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace zsml::test {

inline int threads = 1;

inline void parallel_for(int64_t begin, int64_t end, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (begin >= end) return;
  const int64_t total = end - begin;
  const int64_t pieces = std::min<int64_t>(threads, (total + grain - 1) / grain);
  const int64_t size = (total + pieces - 1) / pieces;
  std::vector<std::exception_ptr> thrown(pieces);
  std::vector<std::thread> running;
  const auto piece = [&](int64_t p) {
    try {
      const int64_t from = begin + p * size, to = std::min(end, from + size);
      if (from < to) body(from, to);
    } catch (...) {
      thrown[p] = std::current_exception();
    }
  };
  for (int64_t p = 1; p < pieces; ++p) running.emplace_back(piece, p);
  piece(0);
  for (std::thread& thread : running) thread.join();
  for (const std::exception_ptr& error : thrown)
    if (error) std::rethrow_exception(error);
}

}  // namespace zsml::test
