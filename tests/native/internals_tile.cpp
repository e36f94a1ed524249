// zsml_internals: the register tile, the packing that feeds it and the frame it works in.
#include <chrono>

#include "internals.h"

namespace zsml::test {
namespace {

// (rows, cols) of the tile: the panel widths of anchors and of candidates.
py::tuple tile_shape(const std::string& isa, const py::object& dtype) {
  return with_dtype(dtype, [&](auto t) {
    const auto& kernel = extremes_kernel<decltype(t)>(isa_named(isa));
    return py::make_tuple(kernel.rows, kernel.cols);
  });
}

// Seconds one thread takes for `repeats` tiles of depth `depth`.
double tile_seconds(const std::string& isa, const py::object& dtype, int64_t depth, int64_t repeats) {
  return with_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    const auto& kernel = extremes_kernel<T>(runnable(isa));
    Aligned<T> a(depth * kernel.rows), b(depth * kernel.cols), product(kernel.rows * kernel.cols);
    std::fill_n(a.memory, depth * kernel.rows, T(0.5));
    std::fill_n(b.memory, depth * kernel.cols, T(0.25));
    const auto start = std::chrono::steady_clock::now();
    for (int64_t r = 0; r < repeats; ++r) kernel.tile(a.memory, b.memory, depth, product.memory);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  });
}

// a [depth, rows], b [depth, cols], both packed -> [rows, cols]
template <class T>
Array<T> tile(const std::string& isa, const Array<T>& a, const Array<T>& b) {
  const auto& kernel = extremes_kernel<T>(runnable(isa));
  require(a.ndim() == 2 && a.shape(1) == kernel.rows && b.ndim() == 2 && b.shape(1) == kernel.cols && a.shape(0) == b.shape(0),
          "a must be [depth, rows] and b [depth, cols] of tile_shape()");
  const AlignedCopy<T> own_a(a.data(), a.size()), own_b(b.data(), b.size());
  Aligned<T> product(kernel.rows * kernel.cols);
  kernel.tile(own_a.memory, own_b.memory, a.shape(0), product.memory);
  return Array<T>({kernel.rows, kernel.cols}, product.memory);
}

template <class T>
py::tuple largest(const Array<T>& x) {
  std::vector<uint8_t> finite;
  const T value = largest_coordinate<T>(rows(x), finite, &parallel_for);
  return py::make_tuple(value, Array<uint8_t>(finite.size(), finite.data()));
}

// -> (scale, shift [depth]), as a search among these candidates would choose them
template <class T>
py::tuple frame(const Array<T>& candidates) {
  std::vector<uint8_t> finite;
  const T value = largest_coordinate<T>(rows(candidates), finite, &parallel_for);
  const Frame<T> chosen = choose_frame<T>(rows(candidates), finite, value, &parallel_for);
  return py::make_tuple(chosen.scale, Array<T>(chosen.shift.size(), chosen.shift.data()));
}

// Rows [first, first + count) of x -> (panels [ceil(count / width), depth, width], norm [panels * width])
template <class T>
py::tuple pack_rows(const Array<T>& x, int width, T scale, const Array<T>& shift, int64_t first, int64_t count) {
  const Rows<T> source = rows(x);
  require(width > 0 && first >= 0 && count >= 0 && first + count <= source.count && shift.size() == source.depth, "pack: shapes");
  std::vector<uint8_t> finite;
  largest_coordinate<T>(source, finite, &parallel_for);
  const int64_t panels = (count + width - 1) / width;
  Array<T> packed({panels, source.depth, static_cast<int64_t>(width)}), norm(panels * width);
  const Frame<T> chosen{scale, {shift.data(), shift.data() + shift.size()}};
  pack(source, first, count, width, chosen, finite, packed.mutable_data(), norm.mutable_data());
  return py::make_tuple(packed, norm);
}

template <class T>
T squared(const Array<T>& a, const Array<T>& b, T scale) {
  require(a.size() == b.size(), "a and b must have the same length");
  return squared_distance(a.data(), b.data(), a.size(), scale);
}

template <class T>
void define(py::module_& m) {  // noconvert: the dtype of the arrays picks the overload
  m.def("tile", &tile<T>, "isa"_a, "a"_a.noconvert(), "b"_a.noconvert());
  m.def("largest_coordinate", &largest<T>, "x"_a.noconvert());
  m.def("choose_frame", &frame<T>, "candidates"_a.noconvert());
  m.def("pack", &pack_rows<T>, "x"_a.noconvert(), "width"_a, "scale"_a, "shift"_a.noconvert(), "first"_a, "count"_a);
  m.def("squared_distance", &squared<T>, "a"_a.noconvert(), "b"_a.noconvert(), "scale"_a);
}

}  // namespace

void define_tile(py::module_& m) {
  m.def("tile_shape", &tile_shape, "isa"_a, "dtype"_a);
  m.def("tile_seconds", &tile_seconds, "isa"_a, "dtype"_a, "depth"_a, "repeats"_a);
  define<float>(m);
  define<double>(m);
}

}  // namespace zsml::test
