// A tile of the product, as the tensor cores leave it in the registers of a block, reduced along its rows and its columns: part of
// hardest_pairs_mma.cuh.
#pragma once

#include "hardest_pairs_finish.cuh"
#include "hardest_pairs_panels.cuh"

namespace zsml::cuda {

constexpr int kMmaThreads = 256;  // 2 x 4 warps, each 64 rows x 32 columns of the tile

// A thread's part of the tile: rows row(0..7), columns column(0..7), their product in products[r / 2][c / 2][r % 2 * 2 + c % 2].
struct Place {
  int lane = threadIdx.x % kWarp, first_row = threadIdx.x / kWarp / 4 * 64, first_column = threadIdx.x / kWarp % 4 * 32;
  __device__ int row(int r) const { return first_row + r * 8 + lane / 4; }
  __device__ int column(int c) const { return first_column + c / 2 * 8 + lane % 4 * 2 + c % 2; }
};

using Products = float[4][4][4];  // of one thread: [16 rows][8 columns][as mma has them]

// ---- keys ----------------------------------------------------------------------------------------------------------------------

// Order of floats as order of integers.
__device__ inline uint32_t ordered(float value) {
  const uint32_t bits = static_cast<uint32_t>(__float_as_int(value));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float unordered(uint32_t bits) { return __int_as_float(static_cast<int>(bits >> 31 ? bits & 0x7fffffffu : ~bits)); }

// The less, the harder; of equals the lower index. value is what the role wants least of.
__device__ inline Key key_of(float value, int64_t index) { return static_cast<Key>(ordered(value)) << 32 | static_cast<Key>(index); }

struct PackedWinners {
  const Key* keys;    // [parts, rows, 4]
  const Card* cards;  // [rows]
  int64_t rows;
  int parts;

  __device__ float norm(int64_t i) const { return cards[i].norm; }

  // Each part's winner; which of the two is the harder only a measurement can tell where a last bit may decide.
  __device__ Found<float> found(int role, int64_t i) const {
    Found<float> result{worst<float>(role), {-1, -1}};
    for (int part = 0; part < parts; ++part) {
      const Key key = keys[(part * rows + i) * kRoles + role];
      if (key == ~Key{0}) continue;
      const float least = unordered(static_cast<uint32_t>(key >> 32)), squared = is_positive(role) ? 0 - least : least;
      if (result.index[0] >= 0) result.index[1] = result.index[0];
      result.index[0] = static_cast<int64_t>(key & 0xffffffffu);
      if (is_positive(role) ? squared > result.squared : squared < result.squared) result.squared = squared;
    }
    return result;
  }
};

// ---- the reduction -------------------------------------------------------------------------------------------------------------

// The last stage: what the reduction must know of the tile's rows and columns.
struct Desk {
  Card rows[kPanelRows], columns[kPanelRows];
  Key row_best[kPanelRows][kRoles], column_best[kPanelRows][kRoles];  // the keys as of a moment ago
};

struct Tile {
  const Desk& desk;
  Key *row_keys, *column_keys;  // of the tile's first row and column, [.., 4]; null where the columns need not be reduced
  int first_row, first_column;
  float twice;  // -2, in units of the product
};

// Is there a candidate, and is it at least as hard as the one known?
__device__ inline bool betters(float value, Key known) { return value < infinity<float>() && ordered(value) <= static_cast<uint32_t>(known >> 32); }

template <class T>
__device__ void reduce_over(int first_step, int last_step, T& farthest, T& nearest) {
  for (int step = first_step; step <= last_step; step *= 2) {
    farthest = fmaxf(farthest, __shfl_xor_sync(kAllLanes, farthest, step));
    nearest = fminf(nearest, __shfl_xor_sync(kAllLanes, nearest, step));
  }
}

// Products become squared distances in the frame, NaN for pairs that must be left out: the anchor itself, a row not to be chosen.
__device__ inline void to_distances(const Tile& tile, const Place& at, Products& products) {
  float norm[8];  // of the columns
#pragma unroll
  for (int c = 0; c < 8; ++c) norm[c] = tile.desk.columns[at.column(c)].norm;
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const Card& row = tile.desk.rows[at.row(r)];
    const int skipped = row.skipped - tile.first_column - at.column(0);
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      float& product = products[r / 2][c / 2][r % 2 * 2 + c % 2];
      product = fmaf(tile.twice, product, row.norm + norm[c]);
    }
    if (skipped >= 0 && skipped < 32) {
#pragma unroll
      for (int c = 0; c < 8; ++c)
        if (skipped == c / 2 * 8 + c % 2) products[r / 2][c / 2][r % 2 * 2 + c % 2] = static_cast<float>(NAN);
    }
  }
}

// One bit for each of a thread's 64 pairs: of row r, byte r % 4 of word r / 4.
struct Pairs64 {
  uint32_t word[2];
  __device__ uint32_t row(int r) const { return word[r / 4] >> r % 4 * 8 & 0xffu; }
  __device__ bool operator()(int r, int c) const { return word[r / 4] >> (r % 4 * 8 + c) & 1u; }
  __device__ Pairs64 operator~() const { return {~word[0], ~word[1]}; }
  __device__ Pairs64 operator&(const Pairs64& other) const { return {word[0] & other.word[0], word[1] & other.word[1]}; }
};

// The pairs whose rows have the same id.
template <int64_t Card::* id>
__device__ Pairs64 equal_ids(const Desk& desk, const Place& at) {
  int64_t of_column[8];
#pragma unroll
  for (int c = 0; c < 8; ++c) of_column[c] = desk.columns[at.column(c)].*id;
  Pairs64 equal{};
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const int64_t of_row = desk.rows[at.row(r)].*id;
#pragma unroll
    for (int c = 0; c < 8; ++c) equal.word[r / 4] |= static_cast<uint32_t>(of_row == of_column[c]) << (r % 4 * 8 + c);
  }
  return equal;
}

// The hardest of these positives and negatives, along rows and columns. Nobody's place is carried along: where a value betters
// what is known, its holders are looked up. fmaxf and fminf pass over NaN.
template <bool symmetric>
__device__ void reduce_side(const Tile& tile, const Place& at, const Products& distances, const Pairs64& positives, const Pairs64& negatives,
                            int role) {  // of the positives; the negatives' comes next
  const auto distance = [&](int r, int c) { return distances[r / 2][c / 2][r % 2 * 2 + c % 2]; };
  float farthest[8], nearest[8];  // of the columns
#pragma unroll
  for (int c = 0; c < 8; ++c) farthest[c] = worst<float>(kWithinPos), nearest[c] = worst<float>(kWithinNeg);

#pragma unroll
  for (int r = 0; r < 8; ++r) {
    float far = worst<float>(kWithinPos), near = worst<float>(kWithinNeg);
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const float value = negatives(r, c) ? distance(r, c) : worst<float>(kWithinNeg);
      near = fminf(near, value);
      if (symmetric) nearest[c] = fminf(nearest[c], value);
    }
    if (positives.row(r)) {  // mostly there are none
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float value = positives(r, c) ? distance(r, c) : worst<float>(kWithinPos);
        far = fmaxf(far, value);
        if (symmetric) farthest[c] = fmaxf(farthest[c], value);
      }
    }
    reduce_over(1, 2, far, near);  // the four lanes of a row
    const Key* known = &tile.desk.row_best[at.row(r)][role];
    const bool new_far = betters(0 - far, known[0]), new_near = betters(near, known[1]);
    if (!new_far && !new_near) continue;
    uint32_t holds_far = 0, holds_near = 0;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      holds_far |= static_cast<uint32_t>(distance(r, c) == far) << c;
      holds_near |= static_cast<uint32_t>(distance(r, c) == near) << c;
    }
    holds_far &= positives.row(r), holds_near &= negatives.row(r);
    Key* keys = tile.row_keys + at.row(r) * kRoles + role;
    if (new_far && holds_far) atomicMin(keys, key_of(0 - far, tile.first_column + at.column(__ffs(holds_far) - 1)));
    if (new_near && holds_near) atomicMin(keys + 1, key_of(near, tile.first_column + at.column(__ffs(holds_near) - 1)));
  }

  if (!symmetric || !tile.column_keys) return;
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    float far = farthest[c], near = nearest[c];
    reduce_over(4, 16, far, near);  // the eight lanes of a column
    const Key* known = &tile.desk.column_best[at.column(c)][role];
    const bool new_far = betters(0 - far, known[0]), new_near = betters(near, known[1]);
    if (!new_far && !new_near) continue;
    uint32_t holds_far = 0, holds_near = 0;
#pragma unroll
    for (int r = 0; r < 8; ++r) {
      holds_far |= static_cast<uint32_t>(positives(r, c) && distance(r, c) == far) << r;
      holds_near |= static_cast<uint32_t>(negatives(r, c) && distance(r, c) == near) << r;
    }
    Key* keys = tile.column_keys + at.column(c) * kRoles + role;
    if (new_far && holds_far) atomicMin(keys, key_of(0 - far, tile.first_row + at.row(__ffs(holds_far) - 1)));
    if (new_near && holds_near) atomicMin(keys + 1, key_of(near, tile.first_row + at.row(__ffs(holds_near) - 1)));
  }
}

// Does the warp's part of the tile hold pairs of one side only? Then of which.
__device__ inline bool one_side(const Desk& desk, const Place& at, bool& within) {
  const int64_t rows = desk.rows[at.first_row].modality, columns = desk.columns[at.first_column].modality;
  within = rows == columns;
  return __ballot_sync(kAllLanes, desk.rows[at.first_row + at.lane].modality == rows && desk.rows[at.first_row + 32 + at.lane].modality == rows &&
                                      desk.columns[at.first_column + at.lane].modality == columns) == kAllLanes;
}

}  // namespace zsml::cuda
