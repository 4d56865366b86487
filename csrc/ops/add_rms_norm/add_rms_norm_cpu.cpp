// CPU: checks, then the rows shared by the norm ops.
#include <torch/library.h>

#include "core/alloc.h"
#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/rms_norm/rows_cpu.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::tuple<Tensor, Tensor> add_rms_norm_fwd_cpu(const Tensor& x, const Tensor& residual,
                                                const OptionalTensor& weight, double eps,
                                                bool residual_in_fp32) {
  check_add_rms_norm("add_rms_norm", {x, residual, weight, eps, residual_in_fp32});
  Tensor y = allocate_like(x);  // (..., d)
  const Tensor new_residual =   // (..., d)
      allocate_like(residual, new_residual_dtype(residual, residual_in_fp32));
  norm_forward_cpu({x, residual, std::nullopt, weight, eps, std::nullopt, false}, y, new_residual);
  return {y, new_residual};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm_bwd_cpu(
    const Tensor& dy, const OptionalTensor& dnew_residual, const Tensor& new_residual,
    const OptionalTensor& weight, double eps, at::ScalarType residual_dtype, bool need_dweight) {
  check_add_rms_norm_backward(
      {dy, dnew_residual, new_residual, weight, eps, residual_dtype, need_dweight});
  const NormGradients grads = norm_backward_cpu(
      dy, dnew_residual,
      {new_residual, std::nullopt, std::nullopt, weight, eps, std::nullopt, false}, residual_dtype,
      need_dweight);
  // x differs from residual only by being a half type beside float32, where one rounding of the
  // float32 gradient gives dx.
  Tensor dx = allocate({0}, dy.scalar_type(), dy);
  if (dy.scalar_type() != residual_dtype) {
    dx = allocate_like(new_residual, dy.scalar_type());
    dx.copy_(grads.dx);
  }
  return {dx, grads.dx, grads.dweight};
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_add_rms_norm_fwd", add_rms_norm_fwd_cpu);
  m.impl("_add_rms_norm_bwd", add_rms_norm_bwd_cpu);
}

}  // namespace aspis::ops
