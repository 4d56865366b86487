// Slow and obvious: ATen calls only, any device, differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/example_op/example_op.h"

namespace aspis::ops {

at::Tensor example_op_ref(const ExampleOpArgs& args) {
  check_example_op(args);
  const auto type = compute_type(args.x.scalar_type());
  return (args.scale * args.x.to(type) * args.weight.to(type)).to(args.x.scalar_type());
}

namespace {
at::Tensor example_op_ref_call(const at::Tensor& x, const at::Tensor& weight, double scale) {
  return example_op_ref({x, weight, scale});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("example_op_ref", example_op_ref_call);
}

}  // namespace aspis::ops
