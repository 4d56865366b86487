// Slow and obvious: ATen calls only, any device, differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/rms_norm/rms_norm.h"

namespace aspis::ops {

using at::Tensor;

Tensor normalise_groups_ref(const Tensor& x, double eps, const std::optional<int64_t>& group_size) {
  const c10::SymInt d = x.sym_size(-1);
  const c10::SymInt size = group_size ? c10::SymInt(*group_size) : d;
  const c10::SymInt groups = group_size ? d / *group_size : c10::SymInt(1);
  const Tensor parts = x.unflatten_symint(-1, {groups, size});  // (..., groups, size)
  const Tensor rms = (parts.square().mean(-1, /*keepdim=*/true) + eps).sqrt();
  return (parts / rms).flatten(-2);
}

Tensor rms_norm_ref(const RmsNormArgs& args) {
  check_norm("rms_norm_ref", args.x, args.weight, args.eps, args.group_size);
  const auto type = compute_type(args.x.scalar_type());
  Tensor y = normalise_groups_ref(args.x.to(type), args.eps, args.group_size);
  if (args.weight) y = y * args.weight->to(type);
  return y.to(args.x.scalar_type());
}

namespace {
Tensor rms_norm_ref_call(const Tensor& x, const std::optional<Tensor>& weight, double eps,
                         std::optional<int64_t> group_size) {
  return rms_norm_ref({x, weight, eps, group_size});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("rms_norm_ref", rms_norm_ref_call);
}

}  // namespace aspis::ops
