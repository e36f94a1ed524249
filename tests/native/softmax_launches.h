// supcon and margin_softmax as csrc/cuda runs them, on the emulator: the same order of work, the same kernels; memory is std::vector,
// the matrix library a plain loop.
#pragma once

#include "cuda_emulator.h"

#include "../../csrc/cuda/margin_softmax.cuh"
#include "../../csrc/cuda/supcon.cuh"
#include "cuda_memory.h"

namespace zsml::cuda::test {

struct EmulatedRun {
  BlockLimits limits;
  uint64_t seed;

  template <class T>
  struct Room {
    std::vector<T> values;
    T* data() const { return const_cast<T*>(values.data()); }
  };

  template <class T>
  Room<T> room(int64_t count) const {
    return {scratch<T>(count, seed)};
  }

  template <class T>
  void clear(Room<T>& room) const {
    std::fill(room.values.begin(), room.values.end(), T(0));
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, dim3 threads, Arguments... arguments) const {
    emulator::launch(seed, kernel, grid, threads, 0, arguments...);
  }

  // at() throws where a view leaves its room.
  template <class T>
  void multiply(Room<T>& out, const View& o, bool add, const Room<T>& a, const View& av, bool a_transposed, const Room<T>& b, const View& bv,
                bool b_transposed) const {
    const int64_t depth = a_transposed ? av.rows : av.columns;
    if (o.rows != (a_transposed ? av.columns : av.rows) || o.columns != (b_transposed ? bv.rows : bv.columns) ||
        depth != (b_transposed ? bv.columns : bv.rows) || o.stride < o.columns || av.stride < av.columns || bv.stride < bv.columns)
      throw emulator::Violation("the matrices do not fit");
    const auto of = [](const Room<T>& room, const View& view, bool transposed, int64_t r, int64_t c) {
      return room.values.at(view.first + (transposed ? c * view.stride + r : r * view.stride + c));
    };
    for (int64_t r = 0; r < o.rows; ++r)
      for (int64_t c = 0; c < o.columns; ++c) {
        T sum = 0;
        for (int64_t k = 0; k < depth; ++k) sum += of(a, av, a_transposed, r, k) * of(b, bv, b_transposed, k, c);
        T& at = out.values.at(o.first + r * o.stride + c);
        at = add ? at + sum : sum;
      }
  }
};

}  // namespace zsml::cuda::test
