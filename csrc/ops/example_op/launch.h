#pragma once
// The launch functions that fwd.cu and bwd.cu instantiate, declared for the host compiler.

#include <cuda_runtime_api.h>

#include "ops/example_op/params.h"
#include "ops/example_op/plan.h"

namespace aspis::ops {

template <typename T>
cudaError_t launch_example_op_fwd(const ExampleOpParams&, const ExampleOpPlan&, const T* x,
                                  const float* weight, T* y, cudaStream_t);
template <typename T>
cudaError_t launch_example_op_bwd(const ExampleOpParams&, const ExampleOpPlan&, const T* dy,
                                  const T* x, const float* weight, T* dx, float* workspace,
                                  float* dweight, cudaStream_t);

}  // namespace aspis::ops
