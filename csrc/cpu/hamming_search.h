// Nearest codes, rankings and ranks of the relevant by counting, without torch. D is the type a distance is kept in (see codes.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../hamming.h"
#include "../rank_relevant.h"
#include "aligned.h"
#include "codes.h"
#include "counting_sort.h"
#include "huge_pages.h"
#include "parallel.h"

namespace zsml::cpu {

struct Codes {
  const uint8_t* data;  // [count, width], contiguous, at any address
  int64_t count, width;
};

// Distances of groups of queries to slices of the gallery; what is done with a row of them is up to the caller.
template <class D>
class HammingRows {
 public:
  HammingRows(Codes queries, Codes gallery, ParallelFor parallel, Isa isa)
      : queries_(queries),
        gallery_(gallery),
        words_(words_of(gallery.width)),
        blocks_((gallery.count + kBlock - 1) / kBlock),
        kernel_(codes_kernel<D>(isa)),
        packed_(queries.count < kPackFrom ? 0 : blocks_ * kBlock * words_ * 8) {
    if (queries.count < kPackFrom) return;
    advise_huge_pages(packed_.memory, blocks_ * kBlock * words_ * 8);
    parallel(0, blocks_, 1 + 4096 / (kBlock * words_), [&](int64_t begin, int64_t end) {
      kernel_.pack(gallery.data + begin * kBlock * gallery.width, gallery.width, std::min(gallery.count, end * kBlock) - begin * kBlock,
                   packed_.memory + begin * kBlock * words_ * 8);
    });
  }

  const CodesKernel<D>& kernel() const { return kernel_; }
  int64_t blocks() const { return blocks_; }
  int64_t largest() const { return 8 * gallery_.width; }

  // Queries of a group: so many that their rows of `blocks` blocks stay in the second-level cache, at least one pass of the kernel.
  static int64_t group(int64_t blocks) {
    const int64_t row = blocks * kBlock * static_cast<int64_t>(sizeof(D));
    return std::clamp<int64_t>((384 << 10) / row, 1, 16) * kQueriesAtOnce;
  }

  // rows[i, j]: query first + i against code j of the blocks [block, block + blocks); places beyond the gallery hold the largest D.
  // `rows` has room for a multiple of kQueriesAtOnce queries.
  void fill(int64_t first, int64_t count, int64_t block, int64_t blocks, D* rows) const {
    const int64_t padded = (count + kQueriesAtOnce - 1) / kQueriesAtOnce * kQueriesAtOnce, stride = blocks * kBlock;
    std::vector<uint64_t> words(padded * words_, 0);
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(words.data() + i * words_, queries_.data + (first + i) * queries_.width, static_cast<size_t>(queries_.width));
    const int64_t inside = gallery_.count - block * kBlock;
    // A stretch of the gallery that stays in the first-level cache serves the whole group.
    const int64_t stretch = std::max<int64_t>(1, (16 << 10) / (kBlock * words_ * 8));
    for (int64_t b = 0; b < blocks; b += stretch) {
      D* to = rows + b * kBlock;
      if (queries_.count < kPackFrom) {
        const int64_t codes = std::min(inside - b * kBlock, stretch * kBlock);
        for (int64_t i = 0; i < count; ++i)
          kernel_.row_distances(gallery_.data + (block + b) * kBlock * gallery_.width, gallery_.width, std::min(codes, stride - b * kBlock),
                                words.data() + i * words_, to + i * stride);
      } else {
        for (int64_t i = 0; i < padded; i += kQueriesAtOnce)
          kernel_.distances(packed_.memory + (block + b) * kBlock * words_ * 8, std::min(stretch, blocks - b), words_, words.data() + i * words_,
                            to + i * stride, stride);
      }
    }
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = inside; j < stride; ++j) rows[i * stride + j] = std::numeric_limits<D>::max();
  }

 private:
  // Queries from which packing the gallery pays: writing to memory never touched before costs more than many distances.
  static constexpr int64_t kPackFrom = 64;

  Codes queries_, gallery_;
  int64_t words_, blocks_;
  const CodesKernel<D>& kernel_;
  Aligned<uint8_t> packed_;
};

// The k nearest of one query so far, by ascending (distance, index).
struct Nearest {
  int32_t* distance;  // [k]
  int64_t* index;     // [k]
  int64_t count;
};

template <class D>
class TopK {
 public:
  // For rows of up to `room` distances, a multiple of kBlock.
  TopK(const HammingRows<D>& rows, int64_t k, int64_t room)
      : kernel_(rows.kernel()), largest_(rows.largest()), k_(k), found_(room), distance_(k), index_(k) {}

  // Merges row[0 .. count), whose first place is gallery row `first`, into `nearest`; rows come in ascending order.
  void merge(const D* row, int64_t count, int64_t first, Nearest& nearest) {
    int64_t limit = largest_;
    if (nearest.count == k_) {  // later rows must be strictly nearer than the farthest kept
      limit = int64_t{nearest.distance[k_ - 1]} - 1;
      if (limit < 0) return;
    }
    const int64_t found = sort_into(row, collect(row, count, limit), first);
    if (nearest.count > 0) return merge_sorted(found, nearest);
    std::copy_n(distance_.data(), found, nearest.distance);
    std::copy_n(index_.data(), found, nearest.index);
    nearest.count = found;
  }

  // The same for another sorted list of later rows.
  void merge(const Nearest& other, Nearest& nearest) {
    std::copy_n(other.distance, other.count, distance_.data());
    std::copy_n(other.index, other.count, index_.data());
    merge_sorted(other.count, nearest);
  }

 private:
  // Into found_: places that include the k nearest of those within `limit`, or all of those. Returns how many.
  int64_t collect(const D* row, int64_t count, int64_t limit) {
    const int64_t radius = exact_radius(row, count, sampled_radius(row, count, limit), limit);
    return kernel_.collect(row, count, static_cast<D>(radius), found_.data());
  }

  // The smallest distance that at least k places do not exceed; `limit` where there are none such. Outwards from a guess in
  // growing steps, then by halving.
  int64_t exact_radius(const D* row, int64_t count, int64_t guess, int64_t limit) const {
    int64_t low = -1, high = limit;  // low holds fewer than k; high at least k, or is the limit
    for (int64_t step = 1; low + 1 < high; step *= 2) {
      guess = std::clamp(guess, low + 1, high - 1);
      const bool enough = kernel_.count_at_most(row, count, static_cast<D>(guess)) >= k_;
      (enough ? high : low) = guess;
      guess += enough ? -step : step;
      if (low >= 0 && high < limit) break;
    }
    while (low + 1 < high) {
      const int64_t middle = (low + high) / 2;
      (kernel_.count_at_most(row, count, static_cast<D>(middle)) >= k_ ? high : low) = middle;
    }
    return high;
  }

  // What the radius would be if every step-th block were all; of a gallery in the order of its classes that is an even sample.
  int64_t sampled_radius(const D* row, int64_t count, int64_t limit) const {
    const int64_t blocks = count / kBlock, step = std::max<int64_t>(1, blocks / 16);
    const int64_t wanted = k_ * ((blocks + step - 1) / step) / blocks;
    int64_t low = -1, high = limit;
    while (low + 1 < high) {
      const int64_t middle = (low + high) / 2;
      int64_t within = 0;
      for (int64_t b = 0; b < blocks; b += step) within += kernel_.count_at_most(row + b * kBlock, kBlock, static_cast<D>(middle));
      (within > wanted ? high : low) = middle;
    }
    return high;
  }

  // The k nearest of the places in found_, which ascend, by (distance, place) into distance_ and index_. Returns how many.
  int64_t sort_into(const D* row, int64_t found, int64_t first) {
    int64_t most = 0;
    for (int64_t i = 0; i < found; ++i) most = std::max<int64_t>(most, row[found_[i]]);
    counting_sort(
        found, most + 1, counts_, [&](int64_t i) { return static_cast<int64_t>(row[found_[i]]); },
        [&](int32_t to, int64_t i) {
          if (to >= k_) return;
          distance_[to] = static_cast<int32_t>(row[found_[i]]);
          index_[to] = first + found_[i];
        });
    return std::min(found, k_);
  }

  // distance_ and index_ [found] into `nearest`, whose entries win ties: their indices are lower.
  void merge_sorted(int64_t found, Nearest& nearest) {
    const int64_t total = std::min(k_, nearest.count + found);
    int64_t mine = nearest.count, other = found;
    while (mine + other > total) {  // drop the farthest
      if (other == 0 || (mine > 0 && nearest.distance[mine - 1] > distance_[other - 1]))
        --mine;
      else
        --other;
    }
    for (int64_t to = total - 1; other > 0; --to) {
      const bool take = mine > 0 && nearest.distance[mine - 1] > distance_[other - 1];
      nearest.distance[to] = take ? nearest.distance[mine - 1] : distance_[other - 1];
      nearest.index[to] = take ? nearest.index[mine - 1] : index_[other - 1];
      --(take ? mine : other);
    }
    nearest.count = total;
  }

  const CodesKernel<D>& kernel_;
  int64_t largest_, k_;
  std::vector<int32_t> found_;
  std::vector<int32_t> counts_;
  std::vector<int32_t> distance_;
  std::vector<int64_t> index_;
};

}  // namespace zsml::cpu
