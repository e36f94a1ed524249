// The tensor-core search of hardest_pairs against brute force, run by the emulator; first the emulator's own tensor cores.
#include "cuda_launches_mma.h"
#include "cuda_oracle.h"

#include <set>

using namespace zsml::cuda::test;
using zsml::kRoles;
using zsml::cuda::Brain16;
using zsml::cuda::Chunk;
using zsml::cuda::Float16;
using zsml::cuda::SplitTf32;
using zsml::cuda::Tf32;

namespace {

int failures = 0;

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  ++failures;
}

// ---- the stand-in for the tensor cores, with the fragments as mma.cuh words them ----------------------------------------------------

template <class Format>
__global__ void product_of_words(const Chunk (*a)[2], const Chunk (*b)[2], float (*c)[8]) {  // rows of 8 words; c [16, 8]
  const int lane = threadIdx.x, group = lane / 4, in_group = lane % 4;
  uint32_t of_a[4], of_b[4];
  zsml::cuda::load_matrices(of_a, &a[lane % 16][lane / 16]);
  zsml::cuda::load_matrices(of_b, &b[lane % 8][lane / 8 % 2]);
  float of_c[4] = {c[group][2 * in_group], c[group][2 * in_group + 1], c[group + 8][2 * in_group], c[group + 8][2 * in_group + 1]};
  const uint32_t first_b[2] = {of_b[0], of_b[1]};
  Format::multiply(of_c, of_a, first_b);
  c[group][2 * in_group] = of_c[0], c[group][2 * in_group + 1] = of_c[1];
  c[group + 8][2 * in_group] = of_c[2], c[group + 8][2 * in_group + 1] = of_c[3];
}

// Number: what a word holds one or two of, with the conversion from float and to float that the rest of the tests uses.
template <class Format, class Number>
void check_product(const char* name) {
  constexpr int per_word = 4 / sizeof(Number), depth = 8 * per_word;
  alignas(16) Number a[16][depth], b[8][depth];
  float c[16][8], before[16][8];
  std::normal_distribution<float> normal;
  for (auto& row : a)
    for (Number& value : row) value = Number(zsml::cuda::rounded_to_tf32(normal(random_bits)));
  for (auto& row : b)
    for (Number& value : row) value = Number(zsml::cuda::rounded_to_tf32(normal(random_bits)));
  for (auto& row : c)
    for (float& value : row) value = normal(random_bits);
  std::memcpy(before, c, sizeof c);
  Chunk words_a[16][2], words_b[8][2];
  static_assert(sizeof words_a == sizeof a && sizeof words_b == sizeof b);
  std::memcpy(words_a, a, sizeof a), std::memcpy(words_b, b, sizeof b);
  launch(3, product_of_words<Format>, 1, 32, 0, words_a, words_b, c);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      double sum = before[i][j];
      for (int k = 0; k < depth; ++k) sum += static_cast<double>(static_cast<float>(a[i][k])) * static_cast<float>(b[j][k]);
      require(std::abs(c[i][j] - sum) <= std::ldexp(std::abs(sum), -23), std::string("the emulated product of ") + name);
    }
}

// ---- the small pieces ---------------------------------------------------------------------------------------------------------------

void check_pieces() {
  using namespace zsml::cuda;
  std::vector<float> values = {-INFINITY, -3e38f, -2, -1, -1e-45f, 0, 1e-45f, 1, 1.0000001f, 3e38f, INFINITY};
  for (size_t i = 0; i < values.size(); ++i) {
    require(unordered(ordered(values[i])) == values[i], "ordered bits give the number back");
    require(i == 0 || ordered(values[i - 1]) < ordered(values[i]), "bits are ordered as the numbers are");
    require(key_of(values[i], 0) < ~Key{0}, "no winner is worse than any");
  }
  require(key_of(1, 7) < key_of(1, 8) && key_of(1, 8) < key_of(2, 0), "the lower value, then the lower index");
  for (float value : {1.0f, 1.00048828125f, -3.1415927f, 1e-30f, 5e20f}) {
    const float high = rounded_to_tf32(value), low = rounded_to_tf32(value - high);
    require(std::abs(value - high) <= std::ldexp(std::abs(value), -11) && std::abs(value - high - low) <= std::ldexp(std::abs(value), -22),
            "a float is two tf32 numbers");
    require(emulator::tf32_to_float(emulator::same_bits<uint32_t>(high)) == high, "a rounded number is one of tf32");
  }
  for (int rows : {1, 2, 15, 16, 17, 33, 70})
    for (int columns : {1, 16, 17, 50}) {
      std::set<std::pair<int, int>> all, half;
      const auto visit = [](int64_t blocks, int row_count, int column_count, const auto& find, auto& seen) {
        for (int64_t block = 0; block < blocks; ++block) {
          int row, column;
          find(block, column_count, row, column);
          if (row < row_count && column < column_count) require(seen.insert({row, column}).second, "no tile is visited twice");
        }
      };
      visit(mma_blocks(false, rows, columns), rows, columns, find_tile<false>, all);
      require(all.size() == static_cast<size_t>(rows * columns), "every tile is visited");
      visit(mma_blocks(true, rows, rows), rows, rows, find_tile<true>, half);
      for (int r = 0; r < rows; ++r)
        for (int c = r; c < rows; ++c) require(half.count({r, c}), "every tile on and above the diagonal is visited");
    }
}

// ---- the search -----------------------------------------------------------------------------------------------------------------------

// How far the rows are moved by the rounding to tf32, at most: with it a choice may be wrong by four times that.
template <class S>
double moved_by_tf32(const Case<S>& c) {
  const Frame<S, float> frame(c.in, 0);
  if (!frame.centred[0] && !std::is_same_v<S, float>) return 0;
  const double scale = zsml::cuda::frame_scale(frame.largest[0]);
  double longest = 0;
  for (const std::vector<S>* rows : {&c.in.x, &c.in.refs})
    for (size_t r = 0; r < rows->size() / c.in.depth; ++r) {
      double length = 0;
      for (int64_t k = 0; k < c.in.depth; ++k) length += std::pow(Computed<S>((*rows)[r * c.in.depth + k]) - frame.shift[k] / scale, 2);
      if (std::isfinite(length)) longest = std::max(longest, length);
    }
  return std::ldexp(std::sqrt(longest), -12);
}

// What the search ranked by, before anything was measured again: winners alone would hide an error that seldom changes them.
template <class S>
void check_ranks(const Case<S>& c, const std::vector<zsml::cuda::Key>& keys, double moved, uint64_t seed) {
  const Frame<S, float> frame(c.in, seed);
  const double scale = zsml::cuda::frame_scale(frame.largest[0]);
  const auto length = [&](const S* row) {
    double sum = 0;
    for (int64_t k = 0; k < c.in.depth; ++k) sum += std::pow(Computed<S>(row[k]) * scale - frame.shift[k], 2);
    return std::sqrt(sum);
  };
  const int64_t rows = ceil_div(c.in.anchors, zsml::cuda::kPanelRows) * zsml::cuda::kPanelRows;
  for (size_t at = 0; at < keys.size(); ++at) {
    const int64_t i = static_cast<int64_t>(at) / kRoles % rows, role = at % kRoles, j = static_cast<int64_t>(keys[at] & 0xffffffffu);
    if (keys[at] == ~zsml::cuda::Key{0}) continue;
    const double least = zsml::cuda::unordered(static_cast<uint32_t>(keys[at] >> 32)),
                 squared = zsml::is_positive(static_cast<int>(role)) ? -least : least;
    const double expected = std::pow(true_distance(c.in, i, j) * scale, 2);
    const double longest = length(&c.in.x[i * c.in.depth]) + length(&c.in.refs[j * c.in.depth]), off = 2 * moved * scale;
    if (!(std::abs(squared - expected) <= 3e-6 * longest * longest + off * (2 * std::sqrt(expected) + off) + 1e-30))
      c.fail("mma", "ranks pair " + std::to_string(i) + ", " + std::to_string(j) + " at " + text(squared) + ", its square is " + text(expected));
  }
}

template <class Native, class Centred, class S>
void check(const Case<S>& c) {
  try {
    const uint64_t seed = random_bits() & ~uint64_t{1};
    std::vector<zsml::cuda::Key> keys;
    const Output<float> out = launch_mma<Native, Centred, S>(c.in, seed, &keys);
    const double moved = std::is_same_v<Centred, Tf32> ? moved_by_tf32(c) : 0;
    check_pairs(c, "mma", out, 256 * std::numeric_limits<float>::epsilon(), 4 * moved);
    check_ranks(c, keys, moved, seed);
    if (!same(out, launch_mma<Native, Centred, S>(c.in, seed + 11))) c.fail("mma", "the result depends on the schedule");
  } catch (const std::exception& caught) {
    std::fprintf(stderr, "%s: %s\n", c.name.c_str(), caught.what());
    ++failures;
  }
}

const std::vector<int64_t> sizes = sanitized ? std::vector<int64_t>{2, 129} : std::vector<int64_t>{1, 2, 127, 128, 129, 300};
const std::vector<int64_t> depths = {1, 3, 123};

template <class Native, class Centred, class S>
void check_format() {
  for (int kind = 0; kind < kinds; ++kind)
    for (int64_t anchors : sizes)
      for (bool self : {false, true}) {
        if (draw(1, sanitized ? 16 : 6) > 1) continue;
        const int64_t candidates = sizes[draw(0, sizes.size() - 1)], depth = depths[draw(0, 2)];
        Case<S> c(Kind(kind), Labels(draw(0, label_kinds - 1)), anchors, candidates, depth, self, draw(0, 1));
        if (draw(0, 1)) {  // one modality after the other, as batches often are: then most warps see a single side
          const int64_t photos = draw(0, anchors / 32) * 32, other_photos = c.in.self ? photos : draw(0, c.in.candidates);
          for (int64_t i = 0; i < anchors; ++i) c.in.modality[i] = i >= photos;
          for (int64_t j = 0; j < c.in.candidates; ++j) c.in.ref_modality[j] = j >= other_photos;
        }
        check<Native, Centred, S>(c);
      }
  for (Kind kind : {whole, normal, normal_far, duplicates})
    check<Native, Centred, S>(Case<S>(kind, few, sanitized ? 130 : 300, 0, sanitized ? 9 : 512, true, true));
}

}  // namespace

int main() {
  check_product<Float16, Half>("float16");
  check_product<Brain16, BFloat16>("bfloat16");
  check_product<Tf32, float>("tf32");
  check_pieces();
  check_format<Float16, Tf32, Half>();
  check_format<Brain16, Tf32, BFloat16>();
  check_format<SplitTf32, SplitTf32, float>();
  check_format<Tf32, Tf32, float>();
  std::printf("the tensor-core search against brute force: %d failures\n", failures);
  return failures ? 1 : 0;
}
