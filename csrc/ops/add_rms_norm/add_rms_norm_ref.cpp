// Slow and obvious: ATen calls only, any device, differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/rms_norm/rms_norm.h"

namespace aspis::ops {

using at::Tensor;

std::tuple<Tensor, Tensor> add_rms_norm_ref(const AddRmsNormArgs& args) {
  check_add_rms_norm("add_rms_norm_ref", args);
  const auto type = compute_type(args.x.scalar_type());
  const Tensor sum = args.x.to(type) + args.residual.to(type);  // (..., d)
  Tensor y = normalise_groups_ref(sum, args.eps, std::nullopt);
  if (args.weight) y = y * args.weight->to(type);
  return {y.to(args.x.scalar_type()),
          sum.to(new_residual_dtype(args.residual, args.residual_in_fp32))};
}

namespace {
std::tuple<Tensor, Tensor> add_rms_norm_ref_call(const Tensor& x, const Tensor& residual,
                                                 const std::optional<Tensor>& weight, double eps,
                                                 bool residual_in_fp32) {
  return add_rms_norm_ref({x, residual, weight, eps, residual_in_fp32});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("add_rms_norm_ref", add_rms_norm_ref_call);
}

}  // namespace aspis::ops
