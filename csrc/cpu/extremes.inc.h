// The body of extremes.h, included once per instruction set (see foreach_isa.h).
#include "tile.inc.h"

#include "mask.inc.h"

// Per anchor and role, one running winner per vector lane: lane l of a panel sees candidates in ascending order, so a strict
// comparison keeps the lowest index, and the lanes meet only once, at the end.
template <class T>
inline __attribute__((always_inline)) void update_lanes(const typename Tile<T>::Vector (&product)[Tile<T>::vectors],
                                                        const typename Tile<T>::Vector* norm, const typename Tile<T>::Ints* label,
                                                        const typename Tile<T>::Ints* modality, const typename Tile<T>::Ints* index,
                                                        Integer<T> own_label, Integer<T> own_modality, Integer<T> excluded,
                                                        typename Tile<T>::Vector* best_value, typename Tile<T>::Ints* best_index) {
  using Vector = typename Tile<T>::Vector;
  using Ints = typename Tile<T>::Ints;
  using Masks = Masks<T>;
  using Mask = typename Masks::Mask;
  Vector value[Tile<T>::vectors];
  Mask same_label[Tile<T>::vectors], same_modality[Tile<T>::vectors], excluded_lane[Tile<T>::vectors];
  for (int v = 0; v < Tile<T>::vectors; ++v) {
    value[v] = norm[v] - (product[v] + product[v]);
    same_label[v] = Masks::equal(label[v], Ints{} + own_label);
    same_modality[v] = Masks::equal(modality[v], Ints{} + own_modality);
    excluded_lane[v] = Masks::equal(index[v], Ints{} + excluded);
  }
#pragma GCC unroll 4
  for (int role = 0; role < kRoles; ++role) {
    Vector best = best_value[role];
    Ints where = best_index[role];
    for (int v = 0; v < Tile<T>::vectors; ++v) {
      const Mask label_fits = is_positive(role) ? same_label[v] : ~same_label[v];
      const Mask modality_fits = role < kCrossPos ? same_modality[v] : ~same_modality[v];
      const Mask harder = is_positive(role) ? Masks::less(best, value[v]) : Masks::less(value[v], best);
      const Mask better = harder & label_fits & modality_fits & ~excluded_lane[v];
      best = Masks::choose(better, value[v], best);
      where = Masks::choose(better, index[v], where);
    }
    best_value[role] = best;
    best_index[role] = where;
  }
}

template <class T>
void update_winners(const PackedRows<T>& anchors, const int64_t* exclude, const PackedRows<T>& candidates, int64_t first, int64_t depth,
                    T* scratch_value, Integer<T>* scratch_index, Winners<T> winners) {
  using Tile = Tile<T>;
  using Vector = typename Tile::Vector;
  using Ints = typename Tile::Ints;
  auto* lane_value = reinterpret_cast<Vector*>(scratch_value);
  auto* lane_index = reinterpret_cast<Ints*>(scratch_index);
  const int64_t anchor_panels = (anchors.count + Tile::rows - 1) / Tile::rows;
  const int64_t candidate_panels = (candidates.count + Tile::cols - 1) / Tile::cols;
  const T infinity = __builtin_inf();
  Ints lane = {};
  for (int l = 0; l < Tile::lanes; ++l) lane[l] = l;
  for (int64_t i = 0; i < anchor_panels * Tile::rows * kRoles; ++i) {
    lane_value[i] = Vector{} + (is_positive(static_cast<int>(i % kRoles)) ? -infinity : infinity);
    lane_index[i] = Ints{} - 1;
  }
  for (int64_t p = 0; p < candidate_panels; ++p) {
    const int64_t j = p * Tile::cols;
    Ints index[Tile::vectors];
    for (int v = 0; v < Tile::vectors; ++v) index[v] = lane + static_cast<Integer<T>>(j + v * Tile::lanes);
    for (int64_t q = 0; q < anchor_panels; ++q) {
      Vector product[Tile::rows][Tile::vectors];
      Tile::multiply(anchors.panels + q * Tile::rows * depth, candidates.panels + j * depth, depth, product);
      for (int r = 0; r < Tile::rows; ++r) {
        const int64_t i = q * Tile::rows + r;
        const int64_t excluded = i < anchors.count && exclude[i] >= 0 ? exclude[i] - first : -1;
        const bool in_chunk = excluded >= 0 && excluded < candidates.count;
        update_lanes<T>(product[r], reinterpret_cast<const Vector*>(candidates.norm + j), reinterpret_cast<const Ints*>(candidates.label + j),
                        reinterpret_cast<const Ints*>(candidates.modality + j), index, anchors.label[i], anchors.modality[i],
                        static_cast<Integer<T>>(in_chunk ? excluded : -1), lane_value + i * kRoles, lane_index + i * kRoles);
      }
    }
  }
  for (int64_t i = 0; i < anchors.count; ++i)
    for (int role = 0; role < kRoles; ++role) {
      T& value = winners.value[role * winners.stride + i];
      int64_t& index = winners.index[role * winners.stride + i];
      T best = value;
      int64_t where = -1;
      for (int l = 0; l < Tile::lanes; ++l) {
        const T lane = scratch_value[(i * kRoles + role) * Tile::lanes + l];
        const int64_t j = scratch_index[(i * kRoles + role) * Tile::lanes + l];
        const bool better = is_positive(role) ? lane > best : lane < best;
        if (j >= 0 && (better || (lane == best && where >= 0 && j < where))) best = lane, where = j;
      }
      if (where >= 0) value = best, index = first + where;
    }
}

template <class T>
void tile_product(const T* a, const T* b, int64_t depth, T* product) {
  using Tile = Tile<T>;
  typename Tile::Vector result[Tile::rows][Tile::vectors];
  Tile::multiply(a, b, depth, result);
  for (int i = 0; i < Tile::rows; ++i)
    for (int v = 0; v < Tile::vectors; ++v) *reinterpret_cast<typename Tile::Vector*>(product + i * Tile::cols + v * Tile::lanes) = result[i][v];
}

template <class T>
const ExtremesKernel<T>& kernel() {
  static const ExtremesKernel<T> k{Tile<T>::rows, Tile<T>::cols, Tile<T>::lanes, &update_winners<T>, &tile_product<T>};
  return k;
}

// Instantiated here, inside the region compiled for this instruction set.
template const ExtremesKernel<float>& kernel<float>();
template const ExtremesKernel<double>& kernel<double>();
