// Runs a PairStream on the device: memory from torch's allocator, launches on its stream, products by its matrix library.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include "common.cuh"
#include "pair_stream.cuh"

namespace zsml::cuda {

template <class T>
constexpr ScalarType kTypeOf = ScalarType::Undefined;
template <>
inline constexpr ScalarType kTypeOf<float> = ScalarType::Float;
template <>
inline constexpr ScalarType kTypeOf<double> = ScalarType::Double;
template <>
inline constexpr ScalarType kTypeOf<int> = ScalarType::Int;
template <>
inline constexpr ScalarType kTypeOf<int64_t> = ScalarType::Long;
template <>
inline constexpr ScalarType kTypeOf<uint8_t> = ScalarType::Byte;

class PairRun {
 public:
  const BlockLimits limits;

  explicit PairRun(const Tensor& like) : like_(like), stream_(current_stream(like)) {}

  template <class T>
  struct Room {
    Tensor tensor;
    T* data() const { return cuda::data<T>(tensor); }
  };

  template <class T>
  Room<T> room(int64_t count) const {
    return {scratch(like_, {count}, kTypeOf<T>)};
  }

  template <class T>
  void clear(const Room<T>& room) const {
    STD_CUDA_CHECK(cudaMemsetAsync(room.data(), 0, room.tensor.numel() * sizeof(T), stream_));
  }

  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, dim3 threads, Arguments... arguments) const {
    kernel<<<grid, threads, 0, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // out = a b, or out += a b; either may be taken transposed. Asked of the CUDA implementation itself, beneath torch's dispatcher: an
  // autocast that would halve the precision has no say. float32 is multiplied as torch.set_float32_matmul_precision has it.
  template <class T>
  void multiply(const Room<T>& out, const View& out_view, bool add, const Room<T>& a, const View& a_view, bool a_transposed, const Room<T>& b,
                const View& b_view, bool b_transposed) const {
    const Tensor result = matrix(out.tensor, out_view, false), left = matrix(a.tensor, a_view, a_transposed),
                 right = matrix(b.tensor, b_view, b_transposed);
    TORCH_ERROR_CODE_CHECK(add ? aoti_torch_cuda_addmm_out(result.get(), result.get(), left.get(), right.get(), 1.0, 1.0)
                               : aoti_torch_cuda_mm_out(result.get(), left.get(), right.get()));
  }

 private:
  static Tensor matrix(const Tensor& t, const View& view, bool transposed) {
    const int64_t sizes[2] = {transposed ? view.columns : view.rows, transposed ? view.rows : view.columns};
    const int64_t strides[2] = {transposed ? 1 : view.stride, transposed ? view.stride : 1};
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(t.get(), 2, sizes, strides, view.first, &handle));
    return Tensor(handle);
  }

  Tensor like_;
  cudaStream_t stream_;
};

}  // namespace zsml::cuda
