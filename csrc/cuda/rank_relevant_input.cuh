// The lists of classes on the device: checked, with what the kernels derive from them.
#pragma once

#include "../rank_relevant_contract.h"
#include "common.cuh"
#include "rank_relevant.cuh"

namespace zsml::cuda {

struct DeviceRelevantInput : RelevantInput {
  Tensor first, class_of;  // [Q + 1], [N]
  // Read back, the one thing the host has to wait for: the length of the result, and the items of the largest class.
  int64_t total;
  int32_t largest;

  DeviceRelevantInput(const Tensor& query_class_, const Tensor& order_, const Tensor& starts_, const Tensor& queries, const Tensor& gallery,
                      cudaStream_t stream)
      : RelevantInput(query_class_, order_, starts_, queries, gallery) {
    STD_TORCH_CHECK(starts.device() == queries.device(), "starts must be on the device of the embeddings");
    const int64_t count = query_class.size(0), rows = order.size(0), classes = starts.size(0) - 1;
    first = scratch(queries, {count + 1}, ScalarType::Long);
    class_of = scratch(queries, {rows}, ScalarType::Int);
    const Tensor found = scratch(queries, {2}, ScalarType::Int);
    int32_t *const wrong = data<int32_t>(found), *const largest_class = wrong + 1;
    STD_CUDA_CHECK(cudaMemsetAsync(wrong, 0, 2 * sizeof(int32_t), stream));
    STD_CUDA_CHECK(cudaMemsetAsync(data<int32_t>(class_of), 0xff, rows * sizeof(int32_t), stream));
    check_starts<<<ceil_div(classes, kClassThreads), kClassThreads, 0, stream>>>(input<int64_t>(starts), classes, rows, wrong, largest_class);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    find_classes<<<ceil_div(rows, kClassThreads), kClassThreads, 0, stream>>>(input<int64_t>(order), input<int64_t>(starts), rows, classes,
                                                                              data<int32_t>(class_of), wrong);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    find_offsets<<<1, kOffsetThreads, 0, stream>>>(input<int64_t>(query_class), input<int64_t>(starts), count, classes, data<int64_t>(first), wrong);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    int32_t known[2];
    STD_CUDA_CHECK(cudaMemcpyAsync(&total, input<int64_t>(first) + count, sizeof total, cudaMemcpyDeviceToHost, stream));
    STD_CUDA_CHECK(cudaMemcpyAsync(known, wrong, sizeof known, cudaMemcpyDeviceToHost, stream));
    STD_CUDA_CHECK(cudaStreamSynchronize(stream));
    STD_TORCH_CHECK(known[0] != kBadStarts, "starts must ascend from 0 to N=", rows);
    STD_TORCH_CHECK(known[0] != kBadOrder, "order must hold rows of the gallery, 0 to ", rows - 1);
    STD_TORCH_CHECK(known[0] != kBadClass, "query_class must be 0 to ", classes - 1);
    largest = known[1];
  }

  Relevant device() const {
    return {input<int64_t>(query_class), input<int64_t>(order), input<int64_t>(starts), input<int64_t>(first), input<int32_t>(class_of)};
  }
};

}  // namespace zsml::cuda
