// Rows as the tensor cores want them: in the frame (frame.cuh), rounded to what is multiplied, in panels of 128 rows that lie in
// global memory just as they will lie in shared memory. What depends on the element type, on the width of a row or on rows that
// do not count is settled here, once per row; the search then only copies.
#pragma once

#include "mma.cuh"
#include "warp.cuh"

namespace zsml::cuda {

constexpr int kPanelRows = 128;
constexpr int kStageWords = 16;  // the words of each row that one stage of the product takes
constexpr int kStageChunks = kPanelRows * kStageWords / 4;
constexpr int kPackThreads = 256;  // one warp per row

using Key = unsigned long long;  // a winner so far: see key_of

// What else the search must know of a row.
struct Card {
  int64_t label, modality;
  float norm;       // squared length in the frame, of the row as rounded; NaN for a row that must not be chosen
  int32_t skipped;  // the candidate that this anchor leaves out, or -1
};
static_assert(sizeof(Card) == 24);

struct Panels {
  Chunk* operand;  // [panels, stages, kPanelRows, kStageWords / 4]
  Card* cards;     // [panels, kPanelRows]; the last panel is filled up with rows that do not count
  int64_t count;   // panels
};

// A row in the frame; zeros beyond its end, and everywhere where it does not count.
template <class S>
struct FramedRow {
  const S* at;  // null where the row does not count
  int64_t depth;
  float scale;
  const float* shift;

  __device__ float operator()(int64_t k) const { return at && k < depth ? static_cast<float>(at[k]) * scale - shift[k] : 0.0f; }
  __device__ uint32_t raw(int64_t k) const { return at && k < depth ? reinterpret_cast<const uint16_t*>(at)[k] : 0u; }
};

// To tf32 (11 significant bits), halves away from zero, as cvt.rna does.
__device__ inline float rounded_to_tf32(float value) {
  return __int_as_float(static_cast<int>((static_cast<uint32_t>(__float_as_int(value)) + 0x1000u) & 0xffffe000u));
}

// ---- what is multiplied: `depth` coordinates to a stage; word() makes a row's word w and adds what it stands for to the norm ------

// float16 as it is. No square over- or underflows in float, so the frame's scale may wait until after the product.
struct Float16 {
  static constexpr int depth = 2 * kStageWords;
  static constexpr bool scaled = false;
  template <class Row>
  static __device__ uint32_t word(const Row& row, int64_t w, float& norm) {
    const float low = row(2 * w), high = row(2 * w + 1);
    norm += low * low + high * high;
    return row.raw(2 * w) | row.raw(2 * w + 1) << 16;
  }
  static __device__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply_f16(c, a, b); }
};

// bfloat16: times a power of two it still is one, to the bit.
struct Brain16 {
  static constexpr int depth = 2 * kStageWords;
  static constexpr bool scaled = true;
  template <class Row>
  static __device__ uint32_t word(const Row& row, int64_t w, float& norm) {
    const float low = row(2 * w), high = row(2 * w + 1);
    norm += low * low + high * high;
    return static_cast<uint32_t>(__float_as_int(low)) >> 16 | (static_cast<uint32_t>(__float_as_int(high)) & 0xffff0000u);
  }
  static __device__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply_bf16(c, a, b); }
};

// float32 rounded to tf32. The norms are those of the rounded rows, so what is ranked are the true distances between these:
// nothing cancels that the rounding did not already blur.
struct Tf32 {
  static constexpr int depth = kStageWords;
  static constexpr bool scaled = true;
  template <class Row>
  static __device__ uint32_t word(const Row& row, int64_t w, float& norm) {
    const float value = rounded_to_tf32(row(w));
    norm += value * value;
    return static_cast<uint32_t>(__float_as_int(value));
  }
  static __device__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { multiply_tf32(c, a, b); }
};

// float32 as the sum of two tf32 numbers, high + low, good to 2^-23: in each stage the high parts of 8 coordinates, then their low
// parts. a b is high high + high low + low high; the low low that is left out is some 2^-24.
struct SplitTf32 {
  static constexpr int depth = kStageWords / 2;
  static constexpr bool scaled = true;
  template <class Row>
  static __device__ uint32_t word(const Row& row, int64_t w, float& norm) {
    const float value = row(w / kStageWords * depth + w % depth), high = rounded_to_tf32(value), low = rounded_to_tf32(value - high);
    if (w % kStageWords >= depth) return static_cast<uint32_t>(__float_as_int(low));
    norm += (high + low) * (high + low);
    return static_cast<uint32_t>(__float_as_int(high));
  }
};

// ---- the packing ---------------------------------------------------------------------------------------------------------------

// Where word w of a row lies. The four chunks of a stage's row are permuted by its number, so that eight rows' chunks of one
// number lie in eight different banks of shared memory.
__device__ inline int64_t word_place(int64_t row, int64_t w, int64_t stages) {
  const int64_t stage = w / kStageWords, chunk = w % kStageWords / 4 ^ row / 2 % 4;
  return ((row / kPanelRows * stages + stage) * kPanelRows + row % kPanelRows) * kStageWords + chunk * 4 + w % 4;
}

template <class Format, class S>
__device__ float pack_row(const FramedRow<S>& row, int64_t r, int64_t depth, Chunk* operand) {
  const int64_t stages = (depth + Format::depth - 1) / Format::depth;
  float norm = 0;
  for (int64_t w = threadIdx.x % kWarp; w < stages * kStageWords; w += kWarp)
    reinterpret_cast<uint32_t*>(operand)[word_place(r, w, stages)] = Format::word(row, w, norm);
  return warp_sum(norm);
}

// As Native where the frame has no shift; what is left after one is no half precision number any more, and is packed as Centred.
// keys [parts, rows of the panels, 4], or null for rows that are no anchors: set to "no winner yet".
// self: each row leaves itself out; otherwise what exclude, where it is given, says.
template <class Native, class Centred, class S>
__global__ void __launch_bounds__(kPackThreads)
    pack_rows(const S* __restrict__ rows, const uint8_t* __restrict__ finite, const int64_t* __restrict__ labels,
              const int64_t* __restrict__ modality, const int64_t* __restrict__ exclude, bool self, int64_t count, int64_t depth,
              const float* __restrict__ largest, const float* __restrict__ shift, const int* __restrict__ centred, Panels out, Key* __restrict__ keys,
              int parts) {
  const int64_t r = blockIdx.x * static_cast<int64_t>(kPackThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (r >= out.count * kPanelRows) return;
  const bool inside = r < count, usable = inside && finite[r];
  const FramedRow<S> row{usable ? rows + r * depth : nullptr, depth, frame_scale(*largest), shift};
  const float norm = *centred ? pack_row<Centred>(row, r, depth, out.operand) : pack_row<Native>(row, r, depth, out.operand);
  if (lane == 0)
    out.cards[r] = {inside ? labels[r] : 0, inside ? modality[r] : 0, usable ? norm : static_cast<float>(NAN),
                    static_cast<int32_t>(!inside   ? -1
                                         : self    ? r
                                         : exclude ? exclude[r]
                                                   : -1)};
  for (int at = lane; keys && at < parts * kRoles; at += kWarp) keys[(at / kRoles * out.count * kPanelRows + r) * kRoles + at % kRoles] = ~Key{0};
}

}  // namespace zsml::cuda
