// The order of work of supcon and margin_softmax: products of a block of pairs by the matrix library, then one pass over them by a
// kernel of pair_softmax.cuh, block after block in the same memory.
//
// Run is who does it: where memory comes from, who launches and multiplies. On the device that is pair_run.cuh; the emulated
// tests bring another one, and so run these very lines. Nothing here depends on what the tensors hold.
#pragma once

#include <algorithm>

#include "pair_rows.cuh"
#include "pair_softmax.cuh"

namespace zsml::cuda {

// A block of 16 MiB in float stays in the second-level cache of a large device between the product and the pass over it.
struct BlockLimits {
  int64_t rows = 2048, columns = 16384, pairs = int64_t{1} << 22;
};

// Part of a room as a matrix, rows `stride` elements apart.
struct View {
  int64_t first, rows, columns, stride;
};

inline int64_t blocks_for(int64_t n, int64_t each) { return (n + each - 1) / each; }
inline int64_t aligned(int64_t n) { return (n + 7) / 8 * 8; }  // elements; keeps rows where the fast products want them

template <class S>
struct Rows {
  const S* data;  // [count, D]
  int64_t count;
};

template <class Run>
struct SumRoom {
  typename Run::template Room<double> values;
  typename Run::template Room<int64_t> positives;
  RowSums sums;

  SumRoom(Run& run, int64_t anchors)
      : values(run.template room<double>(5 * anchors)),
        positives(run.template room<int64_t>(anchors)),
        sums{at(0, anchors), at(1, anchors), at(2, anchors), at(3, anchors), at(4, anchors), positives.data()} {}

 private:
  double* at(int which, int64_t anchors) { return values.data() + which * anchors; }
};

template <class Run, class T>
struct PullRoom {
  typename Run::template Room<T> values;
  AnchorPulls<T> pulls;

  PullRoom(Run& run, int64_t anchors)
      : values(run.template room<T>(3 * anchors)), pulls{values.data(), values.data() + anchors, values.data() + 2 * anchors} {}
};

template <class Run, class S, class T>
class PairStream {
 public:
  template <class U>
  using Room = typename Run::template Room<U>;

  // Of set all but what is prepared here: which rows are finite, and their squared lengths. shift [D] or null.
  PairStream(Run& run, Rows<S> anchors, Rows<S> candidates, int64_t depth, const T* shift, PairSet<T> set)
      : run_(run),
        anchors_(anchors),
        candidates_(candidates),
        depth_(depth),
        flow_(depth + (set.measure == kInner ? 0 : 1)),
        stride_(aligned(flow_)),
        rows_at_once_(std::min(anchors.count, run.limits.rows)),
        columns_at_once_(std::clamp<int64_t>(run.limits.pairs / rows_at_once_, 1, run.limits.columns)),
        shift_(shift),
        set_(set),
        rows_(run.template room<T>(anchors.count * stride_)),
        columns_(run.template room<T>(set.self ? 0 : std::min(candidates.count, columns_at_once_) * stride_)),
        finite_(run.template room<uint8_t>(anchors.count)),
        ref_finite_(run.template room<uint8_t>(set.self ? 0 : candidates.count)),
        norm_(run.template room<T>(distances() ? anchors.count : 0)),
        ref_norm_(run.template room<T>(distances() && !set.self ? candidates.count : 0)),
        product_(run.template room<T>(rows_at_once_ * block_stride())) {
    set_.finite = finite_.data(), set_.norm = distances() ? norm_.data() : nullptr;
    set_.ref_finite = set.self ? finite_.data() : ref_finite_.data();
    set_.ref_norm = !distances() ? nullptr : set.self ? norm_.data() : ref_norm_.data();
    prepare(anchors_, 0, anchors_.count, rows_.data(), finite_.data(), norm_.data());
  }

  const PairSet<T>& set() const { return set_; }
  const T* rows() const { return rows_.data(); }
  int64_t stride() const { return stride_; }

  void sum(const RowSums& sums) {
    for_blocks([&](const PairBlock& block) {
      run_.launch(sum_pairs<T>, blocks_for(block.rows, kSumRows), kSumThreads, set_, block, product_.data(), block_stride(), block.column == 0, sums);
    });
  }

  void sum_positives(const RowSums& sums) {
    for_blocks([&](const PairBlock& block) {
      run_.launch(sum_terms<T>, blocks_for(block.rows, kSumRows), kSumThreads, set_, block, product_.data(), block_stride(), block.column == 0, sums);
    });
  }

  // Returns sum_j w_ij r_j of every anchor, [B, stride] (empty if there is no candidate). Calls store(first, count, sum_i w_ij x_i as
  // [count, stride], r as [count, stride]) for a range of candidates after the other, where these are wanted.
  template <class Store>
  Room<T> gradient(const AnchorPulls<T>& pulls, bool into_anchors, bool into_candidates, const Store& store) {
    auto row_sum = run_.template room<T>(into_anchors && candidates_.count ? anchors_.count * stride_ : 0);
    auto column_sum = run_.template room<T>(into_candidates ? std::min(candidates_.count, columns_at_once_) * stride_ : 0);
    for_blocks([&](const PairBlock& block) {
      if (!block.columns) return;
      run_.launch(weigh_pairs<T>, dim3(blocks_for(block.columns, kWeighThreads), blocks_for(block.rows, kWeighRows)), kWeighThreads, set_, block,
                  pulls, product_.data(), block_stride());
      const View weights{0, block.rows, block.columns, block_stride()}, rows{block.row * stride_, block.rows, flow_, stride_};
      const View columns{first_column(block), block.columns, flow_, stride_};
      if (into_anchors) run_.multiply(row_sum, rows, block.column > 0, product_, weights, false, columns_room(), columns, false);
      if (!into_candidates) return;
      const View sums{0, block.columns, flow_, stride_};
      run_.multiply(column_sum, sums, block.row > 0, product_, weights, true, rows_, rows, false);
      if (block.row + block.rows == anchors_.count) store(block.column, block.columns, column_sum.data(), columns_room().data() + columns.first);
    });
    return row_sum;
  }

 private:
  bool distances() const { return set_.measure != kInner; }
  int64_t block_stride() const { return aligned(std::min(candidates_.count, columns_at_once_)); }
  const Room<T>& columns_room() const { return set_.self ? rows_ : columns_; }
  int64_t first_column(const PairBlock& block) const { return set_.self ? block.column * stride_ : 0; }

  void prepare(const Rows<S>& of, int64_t first, int64_t count, T* out, uint8_t* finite, T* norm) {
    run_.launch(prepare_rows<S, T>, blocks_for(count, kRowsPerBlock), kRowsThreads, of.data + first * depth_, count, depth_, stride_, shift_, out,
                finite + first, distances() ? norm + first : nullptr);
  }

  // Candidates outside, anchors inside: each candidate is prepared once. Without candidates there is one block without columns.
  template <class Body>
  void for_blocks(const Body& body) {
    const bool one = anchors_.count == rows_at_once_ && candidates_.count <= columns_at_once_;
    for (int64_t column = 0; column == 0 || column < candidates_.count; column += columns_at_once_) {
      const int64_t columns = std::min(columns_at_once_, candidates_.count - column);
      if (!set_.self && columns && !held_) prepare(candidates_, column, columns, columns_.data(), ref_finite_.data(), ref_norm_.data());
      for (int64_t row = 0; row < anchors_.count; row += rows_at_once_) {
        const PairBlock block{row, std::min(rows_at_once_, anchors_.count - row), column, columns};
        if (columns && !held_)
          run_.multiply(product_, {0, block.rows, columns, block_stride()}, false, rows_, {row * stride_, block.rows, depth_, stride_}, false,
                        columns_room(), {first_column(block), columns, depth_, stride_}, true);
        body(block);
      }
    }
    held_ = one;  // a second pass finds the products of an only block where they were
  }

  Run& run_;
  Rows<S> anchors_, candidates_;
  int64_t depth_;   // D
  int64_t flow_;    // and the column of ones
  int64_t stride_;  // of prepared rows
  int64_t rows_at_once_, columns_at_once_;
  const T* shift_;
  PairSet<T> set_;
  Room<T> rows_, columns_;  // prepared anchors; prepared candidates of the block
  Room<uint8_t> finite_, ref_finite_;
  Room<T> norm_, ref_norm_;
  Room<T> product_;
  bool held_ = false;
};

}  // namespace zsml::cuda
