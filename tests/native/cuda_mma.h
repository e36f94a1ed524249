// The functions of csrc/cuda/mma.cuh on the emulator: products on tensor cores and asynchronous copies.
//
// The fragments are laid out here as PTX documents them, element by element ("Matrix Fragments for mma.m16n8k16", ".. m16n8k8"); a
// product's sum is truncated to float, as the hardware's is. An asynchronous copy happens at once or, under every other
// seed, at the last moment, when it is waited for: a wait that is missing or too short shows in the result.
#pragma once

#include <cmath>
#include <deque>

#include "cuda_emulator.h"

#include "../../csrc/cuda/mma.cuh"

namespace emulator {

inline float half_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                     : exponent     ? std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25)
                                    : std::ldexp(static_cast<float>(mantissa), -24);
  return bits >> 15 ? -size : size;
}
inline float brain_to_float(uint16_t bits) { return same_bits<float>(static_cast<uint32_t>(bits) << 16); }
inline float tf32_to_float(uint32_t bits) { return same_bits<float>(bits & 0xffffe000u); }  // the rest of the word is not read

inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  return std::abs(static_cast<double>(nearest)) > std::abs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

struct Fragments {
  float* c;
  const uint32_t *a, *b;
};

// c += a b, a [16, depth], b [depth, 8]. read_a(fragments, lane, i) is element i of a lane's fragment of a, and so on.
template <int depth, class Layout>
void multiply(const char* where, Fragments mine, const Layout& layout) {
  block.together(where, &mine, [&](const uint64_t* lanes) {
    double a[16][depth], b[depth][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Fragments& of = *reinterpret_cast<const Fragments*>(lanes[lane]);
      layout(lane / 4, lane % 4, of, a, b);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
        float& c = reinterpret_cast<const Fragments*>(lanes[lane])->c[i];
        double sum = c;
        for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
        c = truncated(sum);
      }
  });
}

template <class Read>
void multiply_halves(const char* where, Fragments mine, const Read& read) {
  multiply<16>(where, mine, [&](int group, int in_group, const Fragments& of, double (*a)[16], double (*b)[8]) {
    const auto element = [&](const uint32_t* words, int i) { return read(static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)); };
    for (int i = 0; i < 8; ++i) {
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
      a[row][column] = element(of.a, i);
    }
    for (int i = 0; i < 4; ++i) b[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group] = element(of.b, i);
  });
}

// ---- asynchronous copies --------------------------------------------------------------------------------------------------------

struct Copy {
  void* to;
  const void* from;
};
struct Copies {
  std::deque<std::vector<Copy>> closed;
  std::vector<Copy> open;
};
inline std::map<unsigned, Copies> copies;  // of the threads of the block

inline bool copies_late() { return block.seed / 8 % 2; }

}  // namespace emulator

namespace zsml::cuda {

inline void multiply_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply_halves("multiply_f16", {c, a, b}, emulator::half_to_float);
}
inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply_halves("multiply_bf16", {c, a, b}, emulator::brain_to_float);
}
inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::multiply<8>("multiply_tf32", {c, a, b}, [](int group, int in_group, const emulator::Fragments& of, double (*a)[8], double (*b)[8]) {
    for (int i = 0; i < 4; ++i) a[i == 0 || i == 2 ? group : group + 8][i < 2 ? in_group : in_group + 4] = emulator::tf32_to_float(of.a[i]);
    for (int i = 0; i < 2; ++i) b[i == 0 ? in_group : in_group + 4][group] = emulator::tf32_to_float(of.b[i]);
  });
}

inline void load_matrices(uint32_t (&word)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16) emulator::block.stop("load_matrices: an address that is no multiple of 16");
  struct Exchange {
    Chunk row;
    uint32_t* word;
  } mine{*static_cast<const Chunk*>(row), word};
  emulator::block.together("load_matrices", &mine, [](const uint64_t* lanes) {
    for (int lane = 0; lane < 32; ++lane)
      for (int matrix = 0; matrix < 4; ++matrix)
        reinterpret_cast<const Exchange*>(lanes[lane])->word[matrix] =
            reinterpret_cast<const Exchange*>(lanes[8 * matrix + lane / 4])->row.word[lane % 4];
  });
}

inline void copy_async(void* shared, const Chunk* global) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16)
    emulator::block.stop("copy_async: an address that is no multiple of 16");
  if (emulator::copies_late())
    emulator::copies[emulator::block.number()].open.push_back({shared, global});
  else
    std::memcpy(shared, global, sizeof(Chunk));
}

inline void close_copies() {
  if (!emulator::copies_late()) return;
  emulator::Copies& mine = emulator::copies[emulator::block.number()];
  mine.closed.push_back(std::move(mine.open));
  mine.open.clear();
}

template <int pending>
void wait_copies() {
  if (!emulator::copies_late()) return;
  emulator::Copies& mine = emulator::copies[emulator::block.number()];
  for (; mine.closed.size() > pending; mine.closed.pop_front())
    for (const emulator::Copy& copy : mine.closed.front()) std::memcpy(copy.to, copy.from, sizeof(Chunk));
}

}  // namespace zsml::cuda
