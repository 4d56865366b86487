#pragma once
// dx = scale * dy * weight;  dweight = scale * sum over rows of dy * x. Contiguous (rows,
// channels). Each block sums its rows into one row of the workspace, a second kernel adds these
// rows in order: no atomics, the same bits every time.

#include <cuda_runtime.h>

#include "core/cuda/device.cuh"
#include "ops/example_op/params.h"
#include "ops/example_op/plan.h"

namespace aspis::ops {

template <typename T>
__global__ void __launch_bounds__(128)
    example_op_bwd_kernel(ExampleOpParams p, int64_t rows_per_block, const T* __restrict__ dy,
                          const T* __restrict__ x, const float* __restrict__ weight,
                          T* __restrict__ dx, float* __restrict__ workspace) {
  // load
  const int64_t d = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d >= p.channels) return;
  const float scale = static_cast<float>(p.scale);
  const float factor = scale * weight[d];
  const int64_t begin = blockIdx.y * rows_per_block;
  const int64_t end = min(p.rows, begin + rows_per_block);
  // compute
  float sum = 0.f;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * p.channels + d;
    const float g = cuda::to_float(dy[at]);
    dx[at] = cuda::from_float<T>(factor * g);
    sum += g * cuda::to_float(x[at]);
  }
  // store
  workspace[blockIdx.y * p.channels + d] = scale * sum;
}

__global__ void __launch_bounds__(128)
    example_op_reduce_kernel(int64_t blocks, int64_t channels, const float* __restrict__ workspace,
                             float* __restrict__ dweight);

template <typename T>
cudaError_t launch_example_op_bwd(const ExampleOpParams& p, const ExampleOpPlan& plan, const T* dy,
                                  const T* x, const float* weight, T* dx, float* workspace,
                                  float* dweight, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.channel_blocks),
                  static_cast<unsigned>(plan.row_blocks));
  example_op_bwd_kernel<T>
      <<<grid, plan.threads, 0, stream>>>(p, plan.rows_per_block, dy, x, weight, dx, workspace);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  example_op_reduce_kernel<<<static_cast<unsigned>(plan.channel_blocks), plan.threads, 0, stream>>>(
      plan.row_blocks, p.channels, workspace, dweight);
  return cudaGetLastError();
}

}  // namespace aspis::ops
