// CPU: checks, then the rows shared by the norm ops.
#include <torch/library.h>

#include "core/alloc.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rms_norm/rows_cpu.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;

Tensor rms_norm_fwd_cpu(const Tensor& x, const OptionalTensor& weight, double eps,
                        OptionalInt group_size) {
  check_norm("rms_norm", x, weight, eps, group_size);
  Tensor y = allocate_like(x);  // (..., d)
  norm_forward_cpu({x, std::nullopt, std::nullopt, weight, eps, group_size, false}, y,
                   std::nullopt);
  return y;
}

std::tuple<Tensor, Tensor> rms_norm_bwd_cpu(const Tensor& dy, const Tensor& x,
                                            const OptionalTensor& weight, double eps,
                                            OptionalInt group_size, bool need_dweight) {
  check_norm("rms_norm", x, weight, eps, group_size);
  check_same_shape("rms_norm", "dy", dy, "x", x);
  const NormGradients grads = norm_backward_cpu(
      dy, std::nullopt, {x, std::nullopt, std::nullopt, weight, eps, group_size, false},
      x.scalar_type(), need_dweight);
  return {grads.dx, grads.dweight};
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_rms_norm_fwd", rms_norm_fwd_cpu);
  m.impl("_rms_norm_bwd", rms_norm_bwd_cpu);
}

}  // namespace aspis::ops
