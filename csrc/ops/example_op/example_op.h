#pragma once
// The op to copy: every file of the pattern around a formula that needs no explanation. It is built
// into the tests only.
//
//   y[b, l, d] = scale * x[b, l, d] * weight[d]
//
// Shapes: x (b, l, d), any strides; weight (d). Differentiable: x, weight. Saved for backward: the
// inputs. Gradients: dx = scale * dy * weight;  dweight = scale * sum over (b, l) of dy * x.

#include <ATen/core/Tensor.h>

namespace aspis::ops {

struct ExampleOpArgs {
  at::Tensor x;       // (b, l, d)
  at::Tensor weight;  // (d)
  double scale = 1.0;
};

at::Tensor example_op(const ExampleOpArgs& args);

// The same in plain ATen calls, on any device, differentiable to any order.
at::Tensor example_op_ref(const ExampleOpArgs& args);

// Shared by the CPU, CUDA and Meta kernels; throws with op, argument, wanted and found.
void check_example_op(const ExampleOpArgs& args);

}  // namespace aspis::ops
