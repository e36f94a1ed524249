// Ranking values of a few queries against a strip of the gallery, from the register tile; every instruction-set variant.
#pragma once

#include <cstdint>

#include "isa.h"

namespace zsml::cpu {

template <class T>
struct StripKernel {
  int rows, cols;  // panel widths of queries and gallery

  // value[i, j] = offset[j] + factor[j] * <query i, gallery j> for all rows of `query_panels` panels and all columns of
  // `gallery_panels` panels (packed as in tile.inc.h); rows of `value` are `stride` apart. Panels, offset and factor aligned to 64 bytes.
  void (*values)(const T* queries, int64_t query_panels, const T* gallery, int64_t gallery_panels, int64_t depth, const T* offset, const T* factor,
                 T* value, int64_t stride);

  // bin[j] = (value[j] - low) * scale, cut to whole numbers from 0 to last: never descends where value ascends.
  void (*bins)(const T* value, int64_t count, T low, T scale, int32_t last, int32_t* bin);

  // The values that do not exceed `high`, in order, with their bins and their places j. The results need room for `count` and
  // one more vector. Returns how many; `least` becomes the smallest of all values and itself.
  int64_t (*keep)(const T* value, int64_t count, T high, T low, T scale, int32_t last, T* kept, int32_t* bin, int32_t* place, T& least);
};

template <class T>
const StripKernel<T>& strip_kernel(Isa isa);

}  // namespace zsml::cpu
