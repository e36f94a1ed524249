// CPU registration of the ops on packed codes; the work is in codes.h, hamming_search.h and hamming_counting.h.
#include <tuple>

#include "../hamming_contract.h"
#include "../rank_relevant_contract.h"
#include "hamming_counting.h"
#include "huge_pages.h"
#include "tensors.h"

namespace zsml::cpu {
namespace {

Codes codes(const Tensor& t) { return {static_cast<const uint8_t*>(t.const_data_ptr()), t.size(0), t.size(1)}; }

// Calls body with a value of the narrowest type that holds a distance of codes of this width and leaves its largest value free.
template <class Body>
void with_distance_type(int64_t width, const Body& body) {
  if (8 * width < 255) return body(uint8_t{});
  if (8 * width < 65535) return body(uint16_t{});
  body(uint32_t{});
}

// Calls body(query, row) for every query with the distances to the whole gallery, and make() once per thread's piece before it.
template <class D, class Make, class Body>
void for_each_row(const HammingInput& in, const HammingRows<D>& rows, const Make& make, const Body& body) {
  const int64_t blocks = rows.blocks();
  // Small problems are cut finer, so that every thread has something to do.
  const int64_t share = (in.queries() + torch::stable::get_num_threads() - 1) / static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t group = std::min(HammingRows<D>::group(blocks), (share + kQueriesAtOnce - 1) / kQueriesAtOnce * kQueriesAtOnce);
  parallel_for(0, (in.queries() + group - 1) / group, 1, [&](int64_t begin, int64_t end) {
    Aligned<D> distances(group * blocks * kBlock);
    auto state = make();
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = g * group, count = std::min(group, in.queries() - first);
      rows.fill(first, count, 0, blocks, distances.memory);
      for (int64_t i = 0; i < count; ++i) body(first + i, distances.memory + i * blocks * kBlock, state);
    }
  });
}

}  // namespace

Tensor hamming_distance(const Tensor& q, const Tensor& g) {
  const HammingInput in(q, g);
  Tensor result = torch::stable::empty({in.queries(), in.codes()}, ScalarType::Int);
  auto* out = static_cast<int32_t*>(result.mutable_data_ptr());
  advise_huge_pages(out, in.queries() * in.codes() * static_cast<int64_t>(sizeof(int32_t)));
  with_distance_type(in.width(), [&](auto element) {
    using D = decltype(element);
    const HammingRows<D> rows(codes(in.q), codes(in.g), &parallel_for, best_isa());
    for_each_row(in, rows, [] { return 0; }, [&](int64_t query, const D* row, int) { std::copy_n(row, in.codes(), out + query * in.codes()); });
  });
  return result;
}

std::tuple<Tensor, Tensor> hamming_topk(const Tensor& q, const Tensor& g, int64_t k) {
  const HammingInput in(q, g);
  check_k(k, in.codes());
  Tensor distance = torch::stable::empty({in.queries(), k}, ScalarType::Int);
  Tensor index = torch::stable::empty({in.queries(), k}, ScalarType::Long);
  if (k == 0) return {distance, index};
  auto* distances = static_cast<int32_t*>(distance.mutable_data_ptr());
  auto* indices = static_cast<int64_t*>(index.mutable_data_ptr());
  with_distance_type(in.width(), [&](auto element) {
    using D = decltype(element);
    const HammingRows<D> rows(codes(in.q), codes(in.g), &parallel_for, best_isa());
    // Few queries: the gallery is cut as well, and the parts are merged in the order of their rows.
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t most = std::max<int64_t>(1, (1 << 18) / (kBlock * static_cast<int64_t>(sizeof(D))));  // blocks of a slice
    const int64_t parts = in.queries() >= threads * kQueriesAtOnce ? 1 : std::clamp<int64_t>(rows.blocks() / 64, 1, threads);
    const int64_t part = (rows.blocks() + parts - 1) / parts;
    const int64_t slice = std::min(most, part);
    const int64_t share = (in.queries() + threads - 1) / threads;
    const int64_t group = std::min(HammingRows<D>::group(slice), (share + kQueriesAtOnce - 1) / kQueriesAtOnce * kQueriesAtOnce);
    const int64_t groups = (in.queries() + group - 1) / group;
    // Room of the parts after the first: [parts - 1, Q, k]
    const int64_t extra = (parts - 1) * in.queries();
    std::vector<int32_t> part_distance(extra * k);
    std::vector<int64_t> part_index(extra * k), part_count(parts * in.queries(), 0);
    const auto nearest = [&](int64_t p, int64_t query) -> Nearest {
      if (p == 0) return {distances + query * k, indices + query * k, part_count[query]};
      const int64_t at = ((p - 1) * in.queries() + query) * k;
      return {part_distance.data() + at, part_index.data() + at, part_count[p * in.queries() + query]};
    };
    parallel_for(0, groups * parts, 1, [&](int64_t begin, int64_t end) {
      Aligned<D> memory(group * slice * kBlock);
      TopK<D> top(rows, k, slice * kBlock);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t p = task % parts, first = task / parts * group, count = std::min(group, in.queries() - first);
        const int64_t last_block = std::min(rows.blocks(), (p + 1) * part);
        for (int64_t block = p * part; block < last_block; block += slice) {
          const int64_t here = std::min(slice, last_block - block);
          rows.fill(first, count, block, here, memory.memory);
          for (int64_t i = 0; i < count; ++i) {
            Nearest own = nearest(p, first + i);
            top.merge(memory.memory + i * here * kBlock, here * kBlock, block * kBlock, own);
            part_count[p * in.queries() + first + i] = own.count;
          }
        }
      }
    });
    if (parts == 1) return;
    TopK<D> top(rows, k, 0);
    for (int64_t query = 0; query < in.queries(); ++query) {
      Nearest own = nearest(0, query);
      for (int64_t p = 1; p < parts; ++p) top.merge(nearest(p, query), own);
    }
  });
  return {distance, index};
}

Tensor hamming_rank(const Tensor& q, const Tensor& g) {
  const HammingInput in(q, g);
  check_rankable(in.codes());
  Tensor result = torch::stable::empty({in.queries(), in.codes()}, ScalarType::Int);
  auto* out = static_cast<int32_t*>(result.mutable_data_ptr());
  advise_huge_pages(out, in.queries() * in.codes() * static_cast<int64_t>(sizeof(int32_t)));
  with_distance_type(in.width(), [&](auto element) {
    using D = decltype(element);
    const HammingRows<D> rows(codes(in.q), codes(in.g), &parallel_for, best_isa());
    for_each_row(
        in, rows, [] { return std::vector<int32_t>(); },
        [&](int64_t query, const D* row, std::vector<int32_t>& tables) {
          int32_t* order = out + query * in.codes();
          counting_sort(
              in.codes(), rows.largest() + 1, tables, [&](int64_t j) { return static_cast<int64_t>(row[j]); },
              [&](int32_t to, int64_t j) { order[to] = static_cast<int32_t>(j); });
        });
  });
  return result;
}

Tensor hamming_rank_relevant(const Tensor& q, const Tensor& query_class, const Tensor& g, const Tensor& order, const Tensor& starts) {
  const HammingInput in(q, g);
  const RelevantInput relevant(query_class, order, starts, in.q, in.g);
  Tensor result = torch::stable::empty({kCounts, relevant.total()}, ScalarType::Int);
  auto* out = static_cast<int32_t*>(result.mutable_data_ptr());
  with_distance_type(in.width(), [&](auto element) {
    using D = decltype(element);
    const HammingRows<D> rows(codes(in.q), codes(in.g), &parallel_for, best_isa());
    for_each_row(
        in, rows, [&] { return RelevantCounts<D>(rows.largest()); },
        [&](int64_t query, const D* row, RelevantCounts<D>& counts) {
          counts.write(row, in.codes(), relevant.items(query), relevant.count(query), out + relevant.offset(query), relevant.total());
        });
  });
  return result;
}

Tensor pack_bits(const Tensor& bits) {
  STD_TORCH_CHECK(bits.scalar_type() == ScalarType::Bool && bits.dim() == 2, "bits must be bool [rows, b]");
  const Tensor in = torch::stable::contiguous(bits);
  const int64_t b = in.size(1), width = (b + 7) / 8;
  Tensor result = torch::stable::empty({in.size(0), width}, ScalarType::Byte);
  const auto* source = static_cast<const uint8_t*>(in.const_data_ptr());
  auto* out = static_cast<uint8_t*>(result.mutable_data_ptr());
  parallel_for(0, in.size(0), 1 + 65536 / (b + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t w = 0; w < width; ++w) {
        uint64_t eight = 0;  // bytes of 0 and 1
        std::memcpy(&eight, source + i * b + 8 * w, static_cast<size_t>(std::min<int64_t>(8, b - 8 * w)));
        out[i * width + w] = static_cast<uint8_t>((eight * 0x0102040810204080u) >> 56);  // byte j, times 2^(56 - 7 j), ends at bit 56 + j
      }
  });
  return result;
}

Tensor unpack_bits(const Tensor& codes_, int64_t b) {
  check_codes(codes_, "codes");
  const Tensor in = torch::stable::contiguous(codes_);
  const int64_t width = in.size(1);
  STD_TORCH_CHECK(8 * width - 7 <= b && b <= 8 * width, "b=", b, " bits do not pack into ", width, " bytes per row");
  Tensor result = torch::stable::empty({in.size(0), b}, ScalarType::Bool);
  const auto* source = static_cast<const uint8_t*>(in.const_data_ptr());
  auto* out = static_cast<uint8_t*>(result.mutable_data_ptr());
  parallel_for(0, in.size(0), 1 + 65536 / (b + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < b; ++j) out[i * b + j] = source[i * width + j / 8] >> (j % 8) & 1;
  });
  return result;
}

}  // namespace zsml::cpu

STABLE_TORCH_LIBRARY_IMPL(zsml, CPU, m) {
  m.impl("hamming_distance", TORCH_BOX(&zsml::cpu::hamming_distance));
  m.impl("hamming_topk", TORCH_BOX(&zsml::cpu::hamming_topk));
  m.impl("hamming_rank", TORCH_BOX(&zsml::cpu::hamming_rank));
  m.impl("hamming_rank_relevant", TORCH_BOX(&zsml::cpu::hamming_rank_relevant));
  m.impl("pack_bits", TORCH_BOX(&zsml::cpu::pack_bits));
  m.impl("unpack_bits", TORCH_BOX(&zsml::cpu::unpack_bits));
}
