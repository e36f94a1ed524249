// The lists of classes on the device: checked, with what the kernels derive from them.
#pragma once

#include "../rank_relevant_contract.h"
#include "common.cuh"
#include "rank_relevant.cuh"

namespace zsml::cuda {

struct DeviceRelevantInput : RelevantInput {
  Tensor first, class_of;  // [Q + 1], [N]
  int64_t total;           // T, the length of the result: read back, the one thing the host has to wait for

  DeviceRelevantInput(const Tensor& query_class_, const Tensor& order_, const Tensor& starts_, const Tensor& queries, const Tensor& gallery,
                      cudaStream_t stream)
      : RelevantInput(query_class_, order_, starts_, queries, gallery) {
    STD_TORCH_CHECK(starts.device() == queries.device(), "starts must be on the device of the embeddings");
    const int64_t count = query_class.size(0), rows = order.size(0), classes = starts.size(0) - 1;
    first = scratch(queries, {count + 1}, ScalarType::Long);
    class_of = scratch(queries, {rows}, ScalarType::Int);
    const Tensor wrong = scratch(queries, {1}, ScalarType::Int);
    STD_CUDA_CHECK(cudaMemsetAsync(data<int32_t>(wrong), 0, sizeof(int32_t), stream));
    STD_CUDA_CHECK(cudaMemsetAsync(data<int32_t>(class_of), 0xff, rows * sizeof(int32_t), stream));
    check_starts<<<ceil_div(classes, kClassThreads), kClassThreads, 0, stream>>>(input<int64_t>(starts), classes, rows, data<int32_t>(wrong));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    find_classes<<<ceil_div(rows, kClassThreads), kClassThreads, 0, stream>>>(input<int64_t>(order), input<int64_t>(starts), rows, classes,
                                                                              data<int32_t>(class_of), data<int32_t>(wrong));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    find_offsets<<<1, kOffsetThreads, 0, stream>>>(input<int64_t>(query_class), input<int64_t>(starts), count, classes, data<int64_t>(first),
                                                   data<int32_t>(wrong));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    int32_t problem = 0;
    STD_CUDA_CHECK(cudaMemcpyAsync(&total, input<int64_t>(first) + count, sizeof total, cudaMemcpyDeviceToHost, stream));
    STD_CUDA_CHECK(cudaMemcpyAsync(&problem, input<int32_t>(wrong), sizeof problem, cudaMemcpyDeviceToHost, stream));
    STD_CUDA_CHECK(cudaStreamSynchronize(stream));
    STD_TORCH_CHECK(problem != kBadStarts, "starts must ascend from 0 to N=", rows);
    STD_TORCH_CHECK(problem != kBadOrder, "order must hold rows of the gallery, 0 to ", rows - 1);
    STD_TORCH_CHECK(problem != kBadClass, "query_class must be 0 to ", classes - 1);
  }

  Relevant device() const {
    return {input<int64_t>(query_class), input<int64_t>(order), input<int64_t>(starts), input<int64_t>(first), input<int32_t>(class_of)};
  }
};

}  // namespace zsml::cuda
