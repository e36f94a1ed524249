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

// ---- rows that are their own candidates ----------------------------------------------------------------------------------------

// Takes value where it is harder than best, or as hard and of a lower index.
template <bool positive, class T>
static inline __attribute__((always_inline)) void take(typename Masks<T>::Mask allowed, typename Tile<T>::Vector value, typename Tile<T>::Ints index,
                                                       typename Tile<T>::Vector& best, typename Tile<T>::Ints& where) {
  using Masks = Masks<T>;
  const auto harder = positive ? Masks::less(best, value) : Masks::less(value, best);
  const auto better = (harder | (Masks::equal(value, best) & Masks::less(index, where))) & allowed;
  best = Masks::choose(better, value, best);
  where = Masks::choose(better, index, where);
}

// What the rows [first, first + count) of a sorted panel have in common.
template <class T>
struct PanelIds {
  Integer<T> modality, first_label, last_label;
  bool one_modality;

  PanelIds(const SortedRows<T>& rows, int64_t first, int64_t count) {
    const int64_t last = (first + count < rows.count ? first + count : rows.count) - 1;
    modality = rows.modality[first], first_label = rows.label[first], last_label = rows.label[last];
    one_modality = modality == rows.modality[last];
  }
};

// The role that every pair of two panels plays, or -1 where they differ. Labels ascend within a modality.
template <class T>
inline int common_role(const PanelIds<T>& a, const PanelIds<T>& b) {
  if (!a.one_modality || !b.one_modality || (a.first_label <= b.last_label && b.first_label <= a.last_label)) return -1;
  return a.modality == b.modality ? kWithinNeg : kCrossNeg;
}

// A tile whose pairs all are negatives of one kind: two running minima.
template <class T>
static inline __attribute__((always_inline)) void update_plain(const typename Tile<T>::Vector (&product)[Tile<T>::rows][Tile<T>::vectors],
                                                               const SortedRows<T>& rows, int64_t i, int64_t j, int role,
                                                               typename Tile<T>::Vector* row_value, typename Tile<T>::Ints* row_index,
                                                               SortedWinners<T> winners) {
  using Vector = typename Tile<T>::Vector;
  using Ints = typename Tile<T>::Ints;
  const auto all = Masks<T>::all();
#pragma GCC unroll 2
  for (int v = 0; v < Tile<T>::vectors; ++v) {
    const int64_t at = j + v * Tile<T>::lanes;
    const Vector norm = *reinterpret_cast<const Vector*>(rows.norm + at);
    const Ints index = *reinterpret_cast<const Ints*>(rows.original + at);
    auto& col_value = *reinterpret_cast<Vector*>(winners.value + role * winners.stride + at);
    auto& col_index = *reinterpret_cast<Ints*>(winners.index + role * winners.stride + at);
    Vector best = col_value;
    Ints where = col_index;
#pragma GCC unroll 14
    for (int r = 0; r < Tile<T>::rows; ++r) {
      const Vector twice = product[r][v] + product[r][v];
      take<false, T>(all, norm - twice, index, row_value[r * kRoles + role], row_index[r * kRoles + role]);
      take<false, T>(all, rows.norm[i + r] - twice, Ints{} + rows.original[i + r], best, where);
    }
    col_value = best;
    col_index = where;
  }
}

// Any tile; a row is never its own partner.
template <class T>
void update_mixed(const typename Tile<T>::Vector (&product)[Tile<T>::rows][Tile<T>::vectors], const SortedRows<T>& rows, int64_t i, int64_t j,
                  typename Tile<T>::Vector* row_value, typename Tile<T>::Ints* row_index, SortedWinners<T> winners) {
  using Vector = typename Tile<T>::Vector;
  using Ints = typename Tile<T>::Ints;
  using Masks = Masks<T>;
  for (int v = 0; v < Tile<T>::vectors; ++v) {
    const int64_t at = j + v * Tile<T>::lanes;
    const Vector norm = *reinterpret_cast<const Vector*>(rows.norm + at);
    const Ints label = *reinterpret_cast<const Ints*>(rows.label + at), modality = *reinterpret_cast<const Ints*>(rows.modality + at);
    const Ints index = *reinterpret_cast<const Ints*>(rows.original + at);
    for (int r = 0; r < Tile<T>::rows; ++r) {
      const Vector twice = product[r][v] + product[r][v];
      const Vector of_row = norm - twice, of_col = rows.norm[i + r] - twice;
      const Ints own = Ints{} + rows.original[i + r];
      const auto same_label = Masks::equal(label, Ints{} + rows.label[i + r]);
      const auto same_modality = Masks::equal(modality, Ints{} + rows.modality[i + r]);
      const auto other = ~Masks::equal(index, own);
#pragma GCC unroll 4
      for (int role = 0; role < kRoles; ++role) {
        const auto allowed = (is_positive(role) ? same_label : ~same_label) & (role < kCrossPos ? same_modality : ~same_modality) & other;
        auto& col_value = *reinterpret_cast<Vector*>(winners.value + role * winners.stride + at);
        auto& col_index = *reinterpret_cast<Ints*>(winners.index + role * winners.stride + at);
        if (is_positive(role)) {
          take<true, T>(allowed, of_row, index, row_value[r * kRoles + role], row_index[r * kRoles + role]);
          take<true, T>(allowed, of_col, own, col_value, col_index);
        } else {
          take<false, T>(allowed, of_row, index, row_value[r * kRoles + role], row_index[r * kRoles + role]);
          take<false, T>(allowed, of_col, own, col_value, col_index);
        }
      }
    }
  }
}

// The lanes of a row's running winners meet, and join what the row found as a column.
template <class T>
void merge_lanes(const T* lane_value, const Integer<T>* lane_index, int64_t i, SortedWinners<T> winners) {
  for (int role = 0; role < kRoles; ++role) {
    T& value = winners.value[role * winners.stride + i];
    Integer<T>& index = winners.index[role * winners.stride + i];
    for (int l = 0; l < Tile<T>::lanes; ++l) {
      const T other = lane_value[role * Tile<T>::lanes + l];
      const Integer<T> j = lane_index[role * Tile<T>::lanes + l];
      if (j >= 0 && ((is_positive(role) ? other > value : other < value) || (other == value && j < index))) value = other, index = j;
    }
  }
}

template <class T>
void update_both_ways(const SortedRows<T>& rows, int64_t first_panel, int64_t last_panel, int64_t depth, T* scratch_value, Integer<T>* scratch_index,
                      SortedWinners<T> winners) {
  using Tile = Tile<T>;
  using Vector = typename Tile::Vector;
  using Ints = typename Tile::Ints;
  const T infinity = __builtin_inf();
  const int64_t first = first_panel * Tile::rows, height = (last_panel - first_panel) * Tile::rows;
  auto* lane_value = reinterpret_cast<Vector*>(scratch_value);
  auto* lane_index = reinterpret_cast<Ints*>(scratch_index);
  for (int64_t at = 0; at < height * kRoles; ++at) {
    lane_value[at] = Vector{} + (is_positive(static_cast<int>(at % kRoles)) ? -infinity : infinity);
    lane_index[at] = Ints{} - 1;
  }
  for (int64_t j = first / Tile::cols * Tile::cols; j < rows.count; j += Tile::cols) {
    const PanelIds<T> col_ids(rows, j, Tile::cols);
    for (int64_t p = first_panel; p < last_panel; ++p) {
      const int64_t i = p * Tile::rows;
      if (j + Tile::cols <= i) break;  // left of the diagonal, and so are the panels below
      Vector product[Tile::rows][Tile::vectors];
      Tile::multiply(rows.row_panels + i * depth, rows.col_panels + j * depth, depth, product);
      const int64_t at = (i - first) * kRoles;
      const int role = common_role(PanelIds<T>(rows, i, Tile::rows), col_ids);
      if (role >= 0)
        update_plain<T>(product, rows, i, j, role, lane_value + at, lane_index + at, winners);
      else
        update_mixed<T>(product, rows, i, j, lane_value + at, lane_index + at, winners);
    }
  }
  const int64_t own = rows.count - first < height ? rows.count - first : height;
  for (int64_t i = 0; i < own; ++i)
    merge_lanes<T>(scratch_value + i * kRoles * Tile::lanes, scratch_index + i * kRoles * Tile::lanes, first + i, winners);
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
  static const ExtremesKernel<T> k{Tile<T>::rows, Tile<T>::cols, Tile<T>::lanes, &update_winners<T>, &update_both_ways<T>, &tile_product<T>};
  return k;
}

// Instantiated here, inside the region compiled for this instruction set.
template const ExtremesKernel<float>& kernel<float>();
template const ExtremesKernel<double>& kernel<double>();
