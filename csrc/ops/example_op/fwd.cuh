#pragma once
// y = scale * x * weight over (rows, channels), contiguous.
// One thread per channel; block x covers a stretch of channels, block y a stretch of rows.

#include <cuda_runtime.h>

#include "core/cuda/device.cuh"
#include "ops/example_op/params.h"
#include "ops/example_op/plan.h"

namespace aspis::ops {

template <typename T>
__global__ void __launch_bounds__(128)
    example_op_fwd_kernel(ExampleOpParams p, int64_t rows_per_block, const T* __restrict__ x,
                          const float* __restrict__ weight, T* __restrict__ y) {
  // load
  const int64_t d = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d >= p.channels) return;
  const float factor = static_cast<float>(p.scale) * weight[d];
  const int64_t begin = blockIdx.y * rows_per_block;
  const int64_t end = min(p.rows, begin + rows_per_block);
  // compute and store
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * p.channels + d;
    y[at] = cuda::from_float<T>(factor * cuda::to_float(x[at]));
  }
}

template <typename T>
cudaError_t launch_example_op_fwd(const ExampleOpParams& p, const ExampleOpPlan& plan, const T* x,
                                  const float* weight, T* y, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.channel_blocks),
                  static_cast<unsigned>(plan.row_blocks));
  example_op_fwd_kernel<T><<<grid, plan.threads, 0, stream>>>(p, plan.rows_per_block, x, weight, y);
  return cudaGetLastError();
}

}  // namespace aspis::ops
