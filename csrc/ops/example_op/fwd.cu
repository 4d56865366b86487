// 3 instantiations: float, half, bfloat16.
#include "ops/example_op/fwd.cuh"

namespace aspis::ops {

template cudaError_t launch_example_op_fwd<float>(const ExampleOpParams&, const ExampleOpPlan&,
                                                  const float*, const float*, float*, cudaStream_t);
template cudaError_t launch_example_op_fwd<__half>(const ExampleOpParams&, const ExampleOpPlan&,
                                                   const __half*, const float*, __half*,
                                                   cudaStream_t);
template cudaError_t launch_example_op_fwd<__nv_bfloat16>(const ExampleOpParams&,
                                                          const ExampleOpPlan&,
                                                          const __nv_bfloat16*, const float*,
                                                          __nv_bfloat16*, cudaStream_t);

}  // namespace aspis::ops
