// CUDA: tensors -> params, plan, workspace, device guard, stream, launch.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/cuda/check.h"
#include "ops/example_op/example_op.h"
#include "ops/example_op/launch.h"

namespace aspis::ops {
namespace {

using at::Tensor;

Tensor example_op_fwd_cuda(const Tensor& x, const Tensor& weight, double scale) {
  check_example_op({x, weight, scale});
  Tensor y = allocate_like(x);  // (b, l, d)
  if (x.numel() == 0) return y;
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor xc = x.contiguous();                      // a copy for unusual strides
  const Tensor wc = weight.to(at::kFloat).contiguous();  // (d)
  const Tensor yc = y.is_contiguous() ? y : allocate(x.sym_sizes(), x.scalar_type(), x);
  const ExampleOpParams params{x.size(0) * x.size(1), x.size(2), scale};
  const ExampleOpPlan plan = plan_example_op(params.rows, params.channels, cuda::multiprocessors());
  cuda::dispatch_device_type("example_op", x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    cuda::check("example_op forward",
                launch_example_op_fwd<T>(params, plan, static_cast<const T*>(xc.const_data_ptr()),
                                         wc.const_data_ptr<float>(), static_cast<T*>(yc.data_ptr()),
                                         c10::cuda::getCurrentCUDAStream()));
  });
  if (!y.is_same(yc)) y.copy_(yc);
  return y;
}

std::tuple<Tensor, Tensor> example_op_bwd_cuda(const Tensor& dy, const Tensor& x,
                                               const Tensor& weight, double scale) {
  check_example_op({x, weight, scale});
  Tensor dx = allocate_like(x);  // (b, l, d)
  if (x.numel() == 0) return {dx, allocate_like(weight).zero_()};
  const c10::cuda::CUDAGuard guard(x.device());
  const Tensor xc = x.contiguous(), dyc = dy.contiguous();
  const Tensor wc = weight.to(at::kFloat).contiguous();
  const Tensor dxc = dx.is_contiguous() ? dx : allocate(x.sym_sizes(), x.scalar_type(), x);
  const Tensor dweight = allocate({x.size(2)}, at::kFloat, x);  // (d)
  const ExampleOpParams params{x.size(0) * x.size(1), x.size(2), scale};
  const ExampleOpPlan plan = plan_example_op(params.rows, params.channels, cuda::multiprocessors());
  const Tensor workspace = allocate({plan.row_blocks, params.channels}, at::kFloat, x);
  cuda::dispatch_device_type("example_op", x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    cuda::check("example_op backward",
                launch_example_op_bwd<T>(
                    params, plan, static_cast<const T*>(dyc.const_data_ptr()),
                    static_cast<const T*>(xc.const_data_ptr()), wc.const_data_ptr<float>(),
                    static_cast<T*>(dxc.data_ptr()), workspace.data_ptr<float>(),
                    dweight.data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  });
  if (!dx.is_same(dxc)) dx.copy_(dxc);
  return {dx, dweight.to(weight.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CUDA, m) {
  m.impl("_example_op_fwd", example_op_fwd_cuda);
  m.impl("_example_op_bwd", example_op_bwd_cuda);
}

}  // namespace aspis::ops
