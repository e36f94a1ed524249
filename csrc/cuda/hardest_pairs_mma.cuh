// hardest_pairs for large batches of float32 and below: tiles of the product on tensor cores, reduced where they stand.
//
// Ladder (nothing here has been timed on a GPU yet; numbers belong to bench/results):
//   v1  SIMT tiles (hardest_pairs_tiled.cuh): full float32 for every input type. Still the search for float64.
//   v2  this one.  <- shipped, not yet timed
//       - mma.sync instead of fused multiply-adds: 10 to 20 times the products a second. float16 and bfloat16 as they are; float32
//         as three tf32 products, or as one where torch.get_float32_matmul_precision allows it.
//       - rows packed once (hardest_pairs_panels.cuh), so that the inner loop is 16-byte asynchronous copies three stages deep,
//         ldmatrix without bank conflicts, and products.
//       - without refs the product is symmetric: tiles on and above the diagonal only, each reduced along its rows and its columns.
//       - tiles are visited in squares of 16 x 16, whose panels stay in the second-level cache.
//       - the reduction takes minima and maxima of values alone, about 8 instructions a pair for both directions; who holds the value
//         is asked only where it betters what is known, which after the first tiles is rare. Winners meet in 64-bit keys by atomicMin:
//         the least key does not depend on who came first.
//   next  wgmma fed by bulk copies with multicast: two blocks an SM read panels at about the rate the second-level cache has.
//
// Errors of the search: the products of halves are exact and the sum loses some 1e-6 |a|^2, as v1's does; three tf32 products are
// summed in float outside the tensor cores, which would truncate, and lose no more. So kTrustedFraction means what it says. One
// tf32 product measures rows that were moved by up to 2^-12 of their length: at the trusted fraction, 32 d^2 = |a|^2, that is 0.3 % of
// d at worst and some 0.01 % in 512 dimensions, what dense code under the same setting would do to every pair.
#pragma once

#include <type_traits>

#include "hardest_pairs_reduce.cuh"

namespace zsml::cuda {

constexpr int kSlots = 3;  // stages in flight or in use
constexpr int kSlotBytes = 2 * kStageChunks * static_cast<int>(sizeof(Chunk));
constexpr int kGroup = 16;  // tiles are visited in squares of this side

// ---- which tile ----------------------------------------------------------------------------------------------------------------

// Squares of tiles that the grid goes through; where symmetric, those on and above the diagonal of a square of odd side n: row r
// of the rectangle [(n + 1) / 2, n] holds the n - r squares of row r and the r of row n - r.
inline int64_t mma_blocks(bool symmetric, int64_t row_panels, int64_t column_panels) {
  const int64_t rows = (row_panels + kGroup - 1) / kGroup, columns = (column_panels + kGroup - 1) / kGroup, n = columns | 1;
  return (symmetric ? n * (n + 1) / 2 : rows * columns) * kGroup * kGroup;
}

template <bool symmetric>
__device__ void find_tile(int64_t block, int column_panels, int& row, int& column) {
  const int columns = (column_panels + kGroup - 1) / kGroup, n = symmetric ? columns | 1 : columns;
  const int square = static_cast<int>(block / (kGroup * kGroup)), within = static_cast<int>(block % (kGroup * kGroup)), r = square / n,
            c = square % n;
  const bool folded = symmetric && c >= n - r;
  row = (folded ? n - r : r) * kGroup + within / kGroup;
  column = (symmetric && !folded ? r + c : c) * kGroup + within % kGroup;
}

static_assert(sizeof(Desk) <= kSlotBytes);

// ---- the product ---------------------------------------------------------------------------------------------------------------

// Half a stage (8 words) of 16 rows from `first` on, a multiple of 8: so the lane alone tells how the row's chunks are permuted.
__device__ inline void load_rows(const unsigned char* panel, int first, int half, int lane, uint32_t (&word)[4]) {
  const int row = first + lane % 16, chunk = (half * 2 + lane / 16) ^ lane / 2 % 4;
  load_matrices(word, panel + (row * 4 + chunk) * sizeof(Chunk));
}

// The same of a warp's 32 columns, which are rows of the other panel.
__device__ inline void load_columns(const unsigned char* panel, int first, int half, int lane, uint32_t (&word)[4][2]) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const int row = first + pair * 16 + lane / 16 * 8 + lane % 8, chunk = (half * 2 + lane / 8 % 2) ^ lane / 2 % 4;
    uint32_t four[4];
    load_matrices(four, panel + (row * 4 + chunk) * sizeof(Chunk));
    word[pair * 2][0] = four[0], word[pair * 2][1] = four[1], word[pair * 2 + 1][0] = four[2], word[pair * 2 + 1][1] = four[3];
  }
}

template <class Format>
__device__ void multiply_stage(const unsigned char* rows, const unsigned char* columns, const Place& at, Products& products) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t b[4][2];
    load_columns(columns, at.first_column, half, at.lane, b);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t a[4];
      load_rows(rows, at.first_row + m * 16, half, at.lane, a);
#pragma unroll
      for (int n = 0; n < 4; ++n) Format::multiply(products[m][n], a, b[n]);
    }
  }
}

// Eight coordinates as high and low parts, the small products first. The tensor cores sum these few; the long sum is rounded.
template <>
__device__ inline void multiply_stage<SplitTf32>(const unsigned char* rows, const unsigned char* columns, const Place& at, Products& products) {
  uint32_t b_high[4][2], b_low[4][2];
  load_columns(columns, at.first_column, 0, at.lane, b_high);
  load_columns(columns, at.first_column, 1, at.lane, b_low);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    uint32_t a_high[4], a_low[4];
    load_rows(rows, at.first_row + m * 16, 0, at.lane, a_high);
    load_rows(rows, at.first_row + m * 16, 1, at.lane, a_low);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float sum[4] = {};
      multiply_tf32(sum, a_low, b_high[n]);
      multiply_tf32(sum, a_high, b_low[n]);
      multiply_tf32(sum, a_high, b_high[n]);
#pragma unroll
      for (int i = 0; i < 4; ++i) products[m][n][i] += sum[i];
    }
  }
}

// load(stage, slot) starts this thread's copies of a stage, each in its turn. After the stages of the product comes one more: see Desk.
template <class Format, class Load>
__device__ void multiply(const unsigned char (*slots)[kSlotBytes], int stages, const Place& at, const Load& load, Products& products) {
  for (int stage = 0; stage < kSlots - 1; ++stage) load(stage, stage), close_copies();
  int slot = 0, free_slot = kSlots - 1;
  for (int stage = 0; stage < stages; ++stage) {
    wait_copies<kSlots - 2>();
    __syncthreads();  // everybody's copies of this stage are there, and everybody has done with the slot filled next
    load(stage + kSlots - 1, free_slot);
    close_copies();
    multiply_stage<Format>(slots[slot], slots[slot] + kSlotBytes / 2, at, products);
    free_slot = slot, slot = slot + 1 == kSlots ? 0 : slot + 1;
  }
  wait_copies<0>();
  __syncthreads();
}

// ---- the kernel ----------------------------------------------------------------------------------------------------------------

// The same value, but what is made of it is neither computed ahead nor kept: it would hold registers throughout the product, of
// which two blocks to a multiprocessor leave 128 a thread, and half of them hold the tile.
__device__ inline int only_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

template <int bytes>
__device__ void copy_chunks(void* shared, const void* global) {
  constexpr int chunks = bytes / static_cast<int>(sizeof(Chunk));
  unsigned char* to = static_cast<unsigned char*>(shared) + threadIdx.x * sizeof(Chunk);
  const Chunk* from = static_cast<const Chunk*>(global) + threadIdx.x;
#pragma unroll
  for (int first = 0; first < chunks; first += kMmaThreads)
    if (first + kMmaThreads <= chunks || first + static_cast<int>(threadIdx.x) < chunks) copy_async(to + first * sizeof(Chunk), from + first);
}

// One block per tile: mma_blocks of them. keys [symmetric ? 2 : 1, rows of the anchors' panels, 4]: the first part for what
// anchors found as rows of tiles, the second as columns; in which of the two places a pair is met may change its product's last bit.
template <class Native, class Centred, bool symmetric>
__global__ void __launch_bounds__(kMmaThreads, 2) search_mma(Panels anchors, Panels candidates, int64_t depth, const float* __restrict__ largest,
                                                             const int* __restrict__ centred, Key* __restrict__ keys) {
  alignas(128) __shared__ unsigned char slots[kSlots][kSlotBytes];
  int row_panel, column_panel;
  find_tile<symmetric>(blockIdx.x, static_cast<int>(candidates.count), row_panel, column_panel);
  if (row_panel >= anchors.count || column_panel >= candidates.count || (symmetric && column_panel < row_panel)) return;
  const auto keys_of = [&](int part, int panel) { return keys + (part * anchors.count + panel) * kPanelRows * kRoles; };

  const bool shifted = !std::is_same_v<Native, Centred> && *centred;
  const int per_stage = shifted ? Centred::depth : Native::depth, stages = static_cast<int>((depth + per_stage - 1) / per_stage);
  const Chunk* a = anchors.operand + static_cast<int64_t>(row_panel) * stages * kStageChunks;
  const Chunk* b = candidates.operand + static_cast<int64_t>(column_panel) * stages * kStageChunks;
  const auto load = [&](int stage, int slot) {
    if (stage < stages) {
      copy_chunks<kSlotBytes / 2>(slots[slot], a), a += kStageChunks;
      copy_chunks<kSlotBytes / 2>(slots[slot] + kSlotBytes / 2, b), b += kStageChunks;
    } else if (stage == stages) {
      Desk& desk = *reinterpret_cast<Desk*>(slots[slot]);
      int row, column;
      find_tile<symmetric>(only_here(blockIdx.x), static_cast<int>(candidates.count), row, column);
      copy_chunks<sizeof desk.rows>(desk.rows, anchors.cards + row * kPanelRows);
      copy_chunks<sizeof desk.columns>(desk.columns, candidates.cards + column * kPanelRows);
      copy_chunks<sizeof desk.row_best>(desk.row_best, keys_of(0, row));
      if (symmetric && row < column) copy_chunks<sizeof desk.column_best>(desk.column_best, keys_of(1, column));
    }
  };
  const Place at;
  Products products = {};
  if (shifted)
    multiply<Centred>(slots, stages, at, load, products);
  else
    multiply<Native>(slots, stages, at, load, products);

  find_tile<symmetric>(only_here(blockIdx.x), static_cast<int>(candidates.count), row_panel, column_panel);
  const bool both = symmetric && row_panel < column_panel;
  const float scale = Native::scaled || shifted ? 1.0f : frame_scale(*largest);
  const Tile tile{*reinterpret_cast<const Desk*>(slots[stages % kSlots]),
                  keys_of(0, row_panel),
                  both ? keys_of(1, column_panel) : nullptr,
                  row_panel * kPanelRows,
                  column_panel * kPanelRows,
                  -2 * scale * scale};
  to_distances(tile, at, products);
  __syncwarp();  // what follows is not loaded ahead: there are no registers to hold it
  const Pairs64 same = equal_ids<&Card::label>(tile.desk, at);
  bool within;
  const bool mixed = !one_side(tile.desk, at, within);
  Pairs64 counted = mixed ? equal_ids<&Card::modality>(tile.desk, at) : Pairs64{{~0u, ~0u}};
  int role = mixed || within ? kWithinPos : kCrossPos;
#pragma unroll 1
  for (int turn = 0; turn < (mixed ? 2 : 1); ++turn, counted = ~counted, role = kCrossPos)
    reduce_side<symmetric>(tile, at, products, same & counted, ~same & counted, role);
}

}  // namespace zsml::cuda
