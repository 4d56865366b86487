// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/example_op/example_op.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/check.h"
#include "ops/refusals.h"

namespace aspis::ops {

void check_example_op(const ExampleOpArgs& args) {
  constexpr const char* op = "example_op";
  check_dim(op, "x", args.x, 3, "(b, l, d)");
  check_floating(op, "x", args.x);
  check_shape(op, "weight", args.weight, {{"d", args.x.sym_size(2)}});
  check_parameter_dtype(op, "weight", args.weight, args.x.scalar_type());
  check_same_device(op, "weight", args.weight, "x", args.x);
}

namespace {

at::Tensor example_op_fwd_meta(const at::Tensor& x, const at::Tensor& weight, double scale) {
  check_example_op({x, weight, scale});
  return allocate_like(x);
}

std::tuple<at::Tensor, at::Tensor> example_op_bwd_meta(const at::Tensor& dy, const at::Tensor& x,
                                                       const at::Tensor& weight, double) {
  (void)dy;
  return {allocate_like(x), allocate_like(weight)};
}

// The public op below autograd: straight to the forward kernel of x's device.
at::Tensor example_op_forward(const at::Tensor& x, const at::Tensor& weight, double scale) {
  static const auto fwd = c10::Dispatcher::singleton()
                              .findSchemaOrThrow("aspis::_example_op_fwd", "")
                              .typed<decltype(example_op_fwd_meta)>();
  require_kernel("example_op", fwd, x);
  return fwd.call(x, weight, scale);
}

}  // namespace

at::Tensor example_op(const ExampleOpArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::example_op", "")
                             .typed<decltype(example_op_forward)>();
  return op.call(args.x, args.weight, args.scale);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  m.def("example_op(Tensor x, Tensor weight, *, float scale=1.0) -> Tensor");
  m.def("example_op_ref(Tensor x, Tensor weight, *, float scale=1.0) -> Tensor");
  m.def("_example_op_fwd(Tensor x, Tensor weight, float scale) -> Tensor");
  m.def("_example_op_bwd(Tensor dy, Tensor x, Tensor weight, float scale) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("example_op", example_op_forward);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_example_op_fwd", example_op_fwd_meta);
  m.impl("_example_op_bwd", example_op_bwd_meta);
}

}  // namespace aspis::ops
