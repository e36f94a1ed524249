// What the files of zsml_internals share: how numpy arrays become the arguments of the kernels.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "hardest_pairs_search.h"
#include "parallel.h"

namespace zsml::test {

namespace py = pybind11;
using namespace py::literals;
using namespace zsml::cpu;

void define_tile(py::module_& m);           // internals_tile.cpp: tile, packing, frame
void define_hardest_pairs(py::module_& m);  // internals_hardest_pairs.cpp: selection, search, gradient

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Ids = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

template <class T>
struct AlignedCopy : Aligned<T> {
  template <class From>
  AlignedCopy(const From* from, int64_t count) : Aligned<T>(count) {
    std::copy_n(from, count, this->memory);
  }
};

inline void require(bool fits, const char* message) {
  if (!fits) throw py::value_error(message);
}

inline Isa isa_named(const std::string& wish) {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (wish == name(isa)) return isa;
  throw py::value_error("isa must be portable, avx2 or avx512, got " + wish);
}

// An instruction set this machine can run; anything else would be an illegal instruction.
inline Isa runnable(const std::string& wish) {
  require(available(isa_named(wish)), "this machine does not have the instruction set asked for");
  return isa_named(wish);
}

template <class Body>
auto with_dtype(const py::object& like, const Body& body) {
  const py::dtype dtype = py::dtype::from_args(like);
  require(dtype.kind() == 'f' && (dtype.itemsize() == 4 || dtype.itemsize() == 8), "dtype must be float32 or float64");
  return dtype.itemsize() == 4 ? body(float{}) : body(double{});
}

template <class T>
Rows<T> rows(const Array<T>& a) {
  require(a.ndim() == 2, "rows must be [count, depth]");
  return {a.data(), a.shape(0), a.shape(1)};
}

inline const int64_t* ids(const Ids& a, int64_t count) {
  require(a.ndim() == 1 && a.shape(0) == count, "one id per row");
  return a.data();
}

}  // namespace zsml::test
