// Slow and obvious decode step: one row after the other, ATen calls only, any device.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/causal_conv1d/operators.h"

namespace aspis::ops {

using at::Tensor;

Tensor causal_conv1d_step_ref(const CausalConv1dStepArgs& args) {
  check_causal_conv1d_step(args);
  const StepSlots slots = list_step_slots(args);
  const auto type = compute_type(args.x.scalar_type());
  const int64_t t = args.x.size(1), w = args.weight.size(1);
  const Tensor weight = args.weight.to(type);   // (d, w)
  const Tensor old_state = args.state.clone();  // rows read before any row writes
  Tensor y = at::zeros_like(args.x);            // (b, t, d)
  for (size_t i = 0; i < slots.rows.size(); ++i) {
    const Tensor window = old_state.select(0, slots.src[i]).t().to(type);  // (w - 1, d)
    const Tensor inputs = at::cat({window, args.x.select(0, slots.rows[i]).to(type)});
    for (int64_t token = 0; token < t; ++token) {
      Tensor o = (inputs.narrow(0, token, w).t() * weight).sum(1);  // (d)
      if (args.bias) o = o + args.bias->to(type);
      if (args.activation == "silu") o = at::silu(o);
      y.select(0, slots.rows[i]).select(0, token).copy_(o);
    }
    if (slots.dst[i] >= 0) args.state.select(0, slots.dst[i]).copy_(inputs.narrow(0, t, w - 1).t());
  }
  return y;
}

namespace {
Tensor causal_conv1d_step_ref_call(Tensor& state, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, std::string_view activation,
                                   const OptionalTensor& src_slots,
                                   const OptionalTensor& dst_slots) {
  return causal_conv1d_step_ref(
      {x, state, weight, bias, std::string(activation), src_slots, dst_slots});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("causal_conv1d_step_ref", causal_conv1d_step_ref_call);
}

}  // namespace aspis::ops
