// The CUDA kernels on packed codes against brute force, run by the emulator: every kind of kernel, each under two schedules.
#include "hamming_launches.h"

#include <cstdio>

using namespace zsml::cuda::test;

namespace {

int failures = 0;
std::mt19937_64 random_bits(5);
int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }

enum Kind { uniform, equal, two_codes, single_bits, extremes, kinds };  // every kind but the first is full of ties
const char* const kind_names[] = {"uniform", "equal", "two_codes", "single_bits", "extremes"};

void fill(Codes& codes, Kind kind) {
  for (int64_t r = 0; r < codes.count; ++r) {
    const bool odd = draw(0, 1);
    for (int64_t b = 0; b < codes.bytes; ++b)
      codes.row(r)[b] = static_cast<uint8_t>(kind == uniform     ? draw(0, 255)
                                             : kind == equal     ? 0x35
                                             : kind == two_codes ? (odd ? 0x0f : 0x33)
                                             : kind == extremes  ? -static_cast<int>(odd)
                                                                 : 0);
    if (kind == single_bits) codes.row(r)[draw(0, codes.bytes - 1)] = static_cast<uint8_t>(1 << draw(0, 7));
  }
}

struct Case {
  Codes q, g;
  std::string name;
  std::vector<int32_t> distance;  // [Q, N], bit by bit

  Case(Kind kind, int64_t queries, int64_t codes, int64_t bytes) : q(queries, bytes), g(codes, bytes), distance(queries * codes) {
    fill(q, kind == equal ? two_codes : kind), fill(g, kind);
    name = kind_names[kind] + std::string(", Q ") + std::to_string(queries) + " N " + std::to_string(codes) + " W " + std::to_string(bytes);
    for (int64_t i = 0; i < queries; ++i)
      for (int64_t j = 0; j < codes; ++j)
        for (int64_t b = 0; b < bytes; ++b)
          for (int differing = q.row(i)[b] ^ g.row(j)[b]; differing; differing /= 2) distance[i * codes + j] += differing % 2;
  }
  int32_t at(int64_t i, int64_t j) const { return distance[i * g.count + j]; }
  std::vector<int64_t> ranking(int64_t i) const {
    std::vector<int64_t> order(g.count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return at(i, a) < at(i, b); });
    return order;
  }
};

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

template <class Body>
void attempt(const std::string& name, const Body& body) {
  try {
    body();
  } catch (const std::exception& caught) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), caught.what());
    ++failures;
  }
}

// limit 0: counters in global memory.
void check(const Case& c, Form form, const std::vector<int64_t>& ks) {
  const std::string name = c.name + (form.few ? ", few" : ", many") + (form.limit ? "" : ", counters in scratch");
  std::vector<int64_t> order;
  for (int64_t i = 0; i < c.q.count; ++i)
    for (int64_t j : c.ranking(i)) order.push_back(j);
  const uint64_t seed = random_bits() & ~uint64_t{1};
  for (const uint64_t s : {seed, seed + 3}) {
    attempt(name, [&] {
      const std::vector<int32_t> rank = launch_rank(c.q, c.g, form, s);
      require(std::equal(order.begin(), order.end(), rank.begin(), rank.end()), "the ranking is wrong");
    });
    for (int64_t k : ks)
      attempt(name + ", k " + std::to_string(k), [&] {
        const Nearest nearest = launch_topk(c.q, c.g, k, form, s);
        for (int64_t at = 0; at < c.q.count * k; ++at) {
          const int64_t i = at / k, j = order[i * c.g.count + at % k];
          require(nearest.index[at] == j && nearest.distance[at] == c.at(i, j),
                  "query " + std::to_string(i) + " place " + std::to_string(at % k) + " is " + std::to_string(nearest.index[at]) + " at " +
                      std::to_string(nearest.distance[at]) + ", expected " + std::to_string(j) + " at " + std::to_string(c.at(i, j)));
        }
      });
    attempt(name + ", relevant", [&] {
      const Classes classes = draw_classes(c.q.count, c.g.count, draw(1, 6), random_bits);
      const std::vector<int32_t> expected = true_counts(classes, [&](int64_t i, int64_t j) { return c.at(i, j); });
      require(launch_hamming_relevant(c.q, c.g, classes, form, s) == expected, "the counts are wrong");
    });
  }
}

void check_distances(const Case& c) {
  attempt(c.name, [&] {
    for (const uint64_t seed : {2, 5}) require(launch_distance(c.q, c.g, seed) == c.distance, "the distances are wrong");
  });
}

void check_bits(int64_t rows, int64_t b) {
  attempt("bits, N " + std::to_string(rows) + " b " + std::to_string(b), [&] {
    const int64_t bytes = ceil_div(b, 8);
    Bytes bits(rows * b), expected(rows * bytes);
    for (int64_t at = 0; at < rows * b; ++at) {
      bits[at] = static_cast<uint8_t>(draw(0, 1));
      expected[at / b * bytes + at % b / 8] |= static_cast<uint8_t>(bits[at] << at % b % 8);
    }
    const Bytes codes = launch_pack(bits, rows, b, 1);
    require(codes == expected, "packed wrongly");
    require(launch_unpack(codes, rows, b, 2) == bits, "unpacked wrongly");
  });
}

void check_classes(const char* what, int32_t wrong, Classes c) {
  attempt(what, [&] { require(DeviceClasses(c, 1).wrong == wrong, "was told to be " + std::to_string(DeviceClasses(c, 1).wrong)); });
}

// Under a sanitizer everything takes far longer.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

}  // namespace

int main() {
  const std::vector<int64_t> widths = {1, 3, 8, 9, 17, 24, 33, 64, 65, 200};
  const std::vector<int64_t> sizes = sanitized ? std::vector<int64_t>{1, 33, 300} : std::vector<int64_t>{1, 2, 31, 32, 33, 256, 257, 700};
  for (int64_t bytes : widths)
    for (int64_t codes : sizes) {
      const Case c(Kind(draw(0, kinds - 1)), std::vector<int64_t>{1, 3, 4, 9}[draw(0, 3)], codes, bytes);
      check_distances(c);
      const std::vector<int64_t> ks = {0, 1, draw(1, codes), codes};
      if (!sanitized || draw(0, 1)) check(c, {false}, ks);
      if (!sanitized || draw(0, 2) == 0) check(c, {true}, ks);
      if (draw(0, 2) == 0) check(c, {draw(0, 1) == 1, 0}, ks);
    }
  for (int kind = 0; kind < kinds; ++kind)
    for (bool few : {false, true}) check(Case(Kind(kind), 5, sanitized ? 100 : 1500, 8), {few}, {1, 77});
  check(Case(single_bits, sanitized ? 9 : 150, 40, 8), {false}, {40});
  if (!sanitized) check(Case(uniform, 30, 40, 9000), {false}, {40});  // scratch has counters for fewer blocks than there are queries
  for (int64_t rows : {1, 3, 300})
    for (int64_t b : {1, 7, 8, 9, 64, 65, 129}) check_bits(rows, b);
  const Classes good{{0, 2, 1}, {1, 0, 3, 2}, {0, 2, 2, 4}};
  const auto with = [&](auto change) {
    Classes c = good;
    change(c);
    return c;
  };
  check_classes("good classes", 0, good);
  check_classes("a class too high", zsml::cuda::kBadClass, with([](Classes& c) { c.query_class[1] = 3; }));
  check_classes("a negative class", zsml::cuda::kBadClass, with([](Classes& c) { c.query_class[1] = -1; }));
  check_classes("a row too high", zsml::cuda::kBadOrder, with([](Classes& c) { c.order[0] = 4; }));
  check_classes("a negative row", zsml::cuda::kBadOrder, with([](Classes& c) { c.order[0] = -1; }));
  check_classes("descending starts", zsml::cuda::kBadStarts, with([](Classes& c) { c.starts[1] = 3; }));
  check_classes("starts beyond the gallery", zsml::cuda::kBadStarts, with([](Classes& c) { c.starts[3] = 5; }));
  std::printf("the CUDA kernels on codes against brute force: %d cases failed\n", failures);
  return failures ? 1 : 0;
}
