// The launches of v2 in csrc/cuda/hardest_pairs.cu, on the emulator; as cuda_launches.h, and like it to be changed with that file.
#pragma once

#include "cuda_launches.h"
#include "cuda_mma.h"

#include "../../csrc/cuda/hardest_pairs_mma.cuh"

namespace zsml::cuda::test {

struct Packed {
  std::vector<Chunk> operand;
  std::vector<Card> cards;
  Panels panels;
};

template <class Native, class Centred, class S>
Packed launch_pack(const Input<S>& in, const Frame<S, float>& frame, bool anchors, Key* keys, int parts, uint64_t seed) {
  const int64_t count = anchors ? in.anchors : in.candidates, panels = ceil_div(count, kPanelRows);
  const int64_t stages = std::max(ceil_div(in.depth, Native::depth), ceil_div(in.depth, Centred::depth));
  Packed out{scratch<Chunk>(panels * stages * kStageChunks, seed), scratch<Card>(panels * kPanelRows, seed), {}};
  out.panels = {out.operand.data(), out.cards.data(), panels};
  launch(seed, pack_rows<Native, Centred, S>, ceil_div(panels * kPanelRows, kPackThreads / kWarp), kPackThreads, 0, (anchors ? in.x : in.refs).data(),
         (anchors ? frame.finite : frame.ref_finite).data(), (anchors ? in.labels : in.ref_labels).data(),
         (anchors ? in.modality : in.ref_modality).data(), anchors ? in.excluded() : nullptr, in.self, count, in.depth, frame.largest.data(),
         frame.shift.data(), frame.centred.data(), out.panels, keys, parts);
  return out;
}

template <class Native, class Centred, class S>
Output<float> launch_mma(const Input<S>& in, uint64_t seed, std::vector<Key>* found = nullptr) {  // found: the keys, [parts, rows, 4]
  const Frame<S, float> frame(in, seed);
  const int parts = in.self ? 2 : 1;
  const int64_t rows = ceil_div(in.anchors, kPanelRows) * kPanelRows;
  std::vector<Key> keys = scratch<Key>(parts * rows * kRoles, seed);
  const Packed anchors = launch_pack<Native, Centred, S>(in, frame, true, keys.data(), parts, seed);
  const Packed others = in.self ? Packed{} : launch_pack<Native, Centred, S>(in, frame, false, nullptr, 0, seed);
  const Panels candidates = in.self ? anchors.panels : others.panels;
  const int64_t blocks = mma_blocks(in.self, anchors.panels.count, candidates.count);
  const auto search = in.self ? search_mma<Native, Centred, true> : search_mma<Native, Centred, false>;
  launch(seed, search, blocks, kMmaThreads, 0, anchors.panels, candidates, in.depth, frame.largest.data(), frame.centred.data(), keys.data());
  if (found) *found = keys;
  return launch_finish<S, float>(in, frame, PackedWinners{keys.data(), anchors.cards.data(), rows, parts}, seed);
}

}  // namespace zsml::cuda::test
