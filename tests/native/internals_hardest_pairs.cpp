// zsml_internals: the selection, the whole search and its gradient.
#include <optional>

#include "internals.h"
#include "pair_gradient.h"

namespace zsml::test {
namespace {

// Rows [first, first + count) as the selection reads them: no frame, ids as they are (they must fit the lanes).
template <class T>
struct Packed {
  Aligned<T> panels, norm;
  Aligned<Integer<T>> label, modality;
  int64_t count;

  Packed(const Rows<T>& source, const int64_t* labels, const int64_t* modalities, int64_t first, int64_t count, int width)
      : panels(padded(count, width) * source.depth),
        norm(padded(count, width)),
        label(padded(count, width)),
        modality(padded(count, width)),
        count(count) {
    std::vector<uint8_t> finite;
    largest_coordinate<T>(source, finite, &parallel_for);
    pack(source, first, count, width, Frame<T>{1, std::vector<T>(source.depth, T(0))}, finite, panels.memory, norm.memory);
    std::fill(std::copy_n(labels + first, count, label.memory), label.memory + padded(count, width), Integer<T>(-1));
    std::fill(std::copy_n(modalities + first, count, modality.memory), modality.memory + padded(count, width), Integer<T>(-1));
  }
  PackedRows<T> view() const { return {panels.memory, norm.memory, label.memory, modality.memory, count}; }
  static int64_t padded(int64_t count, int width) { return (count + width - 1) / width * width; }
};

// The selection alone; candidates arrive in chunks of the given sizes. -> (|b|^2 - 2 a.b [4, B], index [4, B])
template <class T>
py::tuple select(const std::string& isa, const Array<T>& x, const Ids& labels, const Ids& modality, const Array<T>& refs, const Ids& ref_labels,
                 const Ids& ref_modality, const Ids& exclude, const std::vector<int64_t>& chunks) {
  const auto& kernel = extremes_kernel<T>(runnable(isa));
  const Rows<T> anchors = rows(x), candidates = rows(refs);
  require(anchors.depth == candidates.depth, "select: depths must be equal");
  Array<T> value({int64_t(kRoles), anchors.count});
  Array<int64_t> index({int64_t(kRoles), anchors.count});
  for (int64_t at = 0; at < value.size(); ++at) {
    const T infinity = std::numeric_limits<T>::infinity();
    value.mutable_data()[at] = is_positive(static_cast<int>(at / anchors.count)) ? -infinity : infinity;
    index.mutable_data()[at] = -1;
  }
  const Packed<T> a(anchors, ids(labels, anchors.count), ids(modality, anchors.count), 0, anchors.count, kernel.rows);
  Aligned<T> scratch_value(kernel.scratch(anchors.count));
  Aligned<Integer<T>> scratch_index(kernel.scratch(anchors.count));
  int64_t first = 0;
  for (int64_t count : chunks) {
    require(count >= 0 && first + count <= candidates.count, "chunks must add up to the candidates");
    const Packed<T> b(candidates, ids(ref_labels, candidates.count), ids(ref_modality, candidates.count), first, count, kernel.cols);
    kernel.update(a.view(), ids(exclude, anchors.count), b.view(), first, anchors.depth, scratch_value.memory, scratch_index.memory,
                  {value.mutable_data(), index.mutable_data(), anchors.count});
    first += count;
  }
  require(first == candidates.count, "chunks must add up to the candidates");
  return py::make_tuple(value, index);
}

// The whole forward pass -> (distance [4, B], index [4, B])
template <class T>
py::tuple search(const std::string& isa, const Array<T>& x, const Ids& labels, const Ids& modality, const Array<T>& refs, const Ids& ref_labels,
                 const Ids& ref_modality, const Ids& exclude, int threads) {
  require(threads > 0 && rows(x).depth == rows(refs).depth, "search: threads must be positive and depths equal");
  const int64_t anchors = rows(x).count, candidates = rows(refs).count;
  Array<T> distance({int64_t(kRoles), anchors});
  Array<int64_t> index({int64_t(kRoles), anchors});
  test::threads = threads;
  HardestPairsSearch<T, T>(rows(x), ids(labels, anchors), ids(modality, anchors), rows(refs), ids(ref_labels, candidates),
                           ids(ref_modality, candidates), ids(exclude, anchors), &parallel_for, threads, runnable(isa))
      .run(distance.mutable_data(), index.mutable_data());
  return py::make_tuple(distance, index);
}

// The backward pass -> (grad_x [B, D], grad_refs [M, D] or, without refs, None)
template <class T>
py::tuple gradient(const Array<T>& grad, const Array<T>& x, const std::optional<Array<T>>& refs, const Array<T>& distance, const Ids& index,
                   int threads) {
  const Rows<T> anchors = rows(x), candidates = refs ? rows(*refs) : anchors;
  const int64_t pairs = kRoles * anchors.count;
  require(threads > 0 && grad.size() == pairs && distance.size() == pairs && index.size() == pairs, "gradient: shapes");
  test::threads = threads;
  const PairGradient<T, T> pass(anchors, candidates, grad.data(), distance.data(), index.data(), &parallel_for);
  Array<T> grad_x({anchors.count, anchors.depth});
  pass.of_anchors(grad_x.mutable_data(), !refs);
  if (!refs) return py::make_tuple(grad_x, py::none());
  Array<T> grad_refs({candidates.count, candidates.depth});
  pass.of_refs(grad_refs.mutable_data());
  return py::make_tuple(grad_x, grad_refs);
}

template <class T>
void define(py::module_& m) {  // noconvert: the dtype of the arrays picks the overload
  m.def("select", &select<T>, "isa"_a, "x"_a.noconvert(), "labels"_a, "modality"_a, "refs"_a.noconvert(), "ref_labels"_a, "ref_modality"_a,
        "exclude"_a, "chunks"_a);
  m.def("search", &search<T>, "isa"_a, "x"_a.noconvert(), "labels"_a, "modality"_a, "refs"_a.noconvert(), "ref_labels"_a, "ref_modality"_a,
        "exclude"_a, "threads"_a = 1);
  m.def("gradient", &gradient<T>, "grad"_a.noconvert(), "x"_a.noconvert(), "refs"_a.noconvert(), "distance"_a.noconvert(), "index"_a,
        "threads"_a = 1);
}

}  // namespace

void define_hardest_pairs(py::module_& m) {
  define<float>(m);
  define<double>(m);
}

}  // namespace zsml::test
