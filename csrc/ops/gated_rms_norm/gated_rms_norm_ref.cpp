// Slow and obvious: ATen calls only, any device, differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <ATen/ops/silu.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/gated_rms_norm/gated_rms_norm.h"
#include "ops/rms_norm/rms_norm.h"

namespace aspis::ops {

using at::Tensor;

Tensor gated_rms_norm_ref(const GatedRmsNormArgs& args) {
  check_gated_rms_norm("gated_rms_norm_ref", args);
  const auto type = compute_type(args.x.scalar_type());
  Tensor y = args.x.to(type);  // (..., d)
  if (args.z && !args.norm_before_gate) y = y * at::silu(args.z->to(type));
  y = normalise_groups_ref(y, args.eps, args.group_size);
  if (args.weight) y = y * args.weight->to(type);
  if (args.z && args.norm_before_gate) y = y * at::silu(args.z->to(type));
  return y.to(args.x.scalar_type());
}

namespace {
Tensor gated_rms_norm_ref_call(const Tensor& x, const std::optional<Tensor>& z,
                               const std::optional<Tensor>& weight, double eps,
                               std::optional<int64_t> group_size, bool norm_before_gate) {
  return gated_rms_norm_ref({x, z, weight, eps, group_size, norm_before_gate});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("gated_rms_norm_ref", gated_rms_norm_ref_call);
}

}  // namespace aspis::ops
