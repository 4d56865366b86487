// 3 instantiations: float, half, bfloat16.
#include "ops/example_op/bwd.cuh"

namespace aspis::ops {

__global__ void __launch_bounds__(128)
    example_op_reduce_kernel(int64_t blocks, int64_t channels, const float* __restrict__ workspace,
                             float* __restrict__ dweight) {
  const int64_t d = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (d >= channels) return;
  float sum = 0.f;
  for (int64_t block = 0; block < blocks; ++block) sum += workspace[block * channels + d];
  dweight[d] = sum;
}

template cudaError_t launch_example_op_bwd<float>(const ExampleOpParams&, const ExampleOpPlan&,
                                                  const float*, const float*, const float*, float*,
                                                  float*, float*, cudaStream_t);
template cudaError_t launch_example_op_bwd<__half>(const ExampleOpParams&, const ExampleOpPlan&,
                                                   const __half*, const __half*, const float*,
                                                   __half*, float*, float*, cudaStream_t);
template cudaError_t launch_example_op_bwd<__nv_bfloat16>(
    const ExampleOpParams&, const ExampleOpPlan&, const __nv_bfloat16*, const __nv_bfloat16*,
    const float*, __nv_bfloat16*, float*, float*, cudaStream_t);

}  // namespace aspis::ops
