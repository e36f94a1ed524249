// What the lanes of a warp do together: each brings a value and leaves with something made of all 32.
#pragma once

#include "cuda_block.h"

namespace emulator {

template <class T, class Source>
T shuffle(const char* where, unsigned mask, T value, const Source& source) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = block.meet(where, mask, bits)[source(block.lane())];
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T shuffle_xor(const char* where, unsigned mask, T value, unsigned lanes) {
  return shuffle(where, mask, value, [=](unsigned lane) { return lane ^ lanes; });
}

template <class T>
T shuffle_up(const char* where, unsigned mask, T value, unsigned lanes) {
  return shuffle(where, mask, value, [=](unsigned lane) { return lane < lanes ? lane : lane - lanes; });
}

template <class T>
T shuffle_from(const char* where, unsigned mask, T value, unsigned from) {
  return shuffle(where, mask, value, [=](unsigned) { return from % kWarp; });
}

template <class T>
unsigned match_any(const char* where, unsigned mask, T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const uint64_t* values = block.meet(where, mask, bits);
  unsigned result = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) result |= static_cast<unsigned>(values[lane] == bits) << lane;
  return result;
}

inline unsigned ballot(const char* where, unsigned mask, bool predicate) {
  const uint64_t* votes = block.meet(where, mask, predicate);
  unsigned result = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) result |= static_cast<unsigned>(votes[lane]) << lane;
  return result;
}

}  // namespace emulator

#define EMULATOR_TEXT(x) #x
#define EMULATOR_LINE(x) EMULATOR_TEXT(x)
#define EMULATOR_HERE __FILE__ ":" EMULATOR_LINE(__LINE__)
#define __shfl_xor_sync(...) emulator::shuffle_xor(EMULATOR_HERE, __VA_ARGS__)
#define __shfl_up_sync(...) emulator::shuffle_up(EMULATOR_HERE, __VA_ARGS__)
#define __shfl_sync(...) emulator::shuffle_from(EMULATOR_HERE, __VA_ARGS__)
#define __match_any_sync(...) emulator::match_any(EMULATOR_HERE, __VA_ARGS__)
#define __syncwarp() emulator::block.warp_barrier(EMULATOR_HERE)
#define __ballot_sync(...) emulator::ballot(EMULATOR_HERE, __VA_ARGS__)
