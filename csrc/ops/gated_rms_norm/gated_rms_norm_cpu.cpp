// CPU: checks, then the rows shared by the norm ops.
#include <torch/library.h>

#include "core/alloc.h"
#include "ops/gated_rms_norm/gated_rms_norm.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rms_norm/rows_cpu.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;

Tensor gated_rms_norm_fwd_cpu(const Tensor& x, const OptionalTensor& z,
                              const OptionalTensor& weight, double eps, OptionalInt group_size,
                              bool norm_before_gate) {
  check_gated_rms_norm("gated_rms_norm", {x, z, weight, eps, group_size, norm_before_gate});
  Tensor y = allocate_like(x);  // (..., d)
  norm_forward_cpu({x, std::nullopt, z, weight, eps, group_size, norm_before_gate}, y,
                   std::nullopt);
  return y;
}

std::tuple<Tensor, Tensor, Tensor> gated_rms_norm_bwd_cpu(
    const Tensor& dy, const Tensor& x, const OptionalTensor& z, const OptionalTensor& weight,
    double eps, OptionalInt group_size, bool norm_before_gate, bool need_dweight) {
  check_gated_rms_norm("gated_rms_norm", {x, z, weight, eps, group_size, norm_before_gate});
  check_same_shape("gated_rms_norm", "dy", dy, "x", x);
  const NormGradients grads = norm_backward_cpu(
      dy, std::nullopt, {x, std::nullopt, z, weight, eps, group_size, norm_before_gate},
      x.scalar_type(), need_dweight);
  return {grads.dx, grads.dz ? *grads.dz : allocate({0}, dy.scalar_type(), x), grads.dweight};
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_gated_rms_norm_fwd", gated_rms_norm_fwd_cpu);
  m.impl("_gated_rms_norm_bwd", gated_rms_norm_bwd_cpu);
}

}  // namespace aspis::ops
