#pragma once
// RMS normalisation with a gate, per group of the last dimension (Mamba-2's out-norm):
//
//   norm_before_gate = false   u = x * silu(z);  y = u / sqrt(mean(u^2) + eps) * weight
//   norm_before_gate = true    y = x / sqrt(mean(x^2) + eps) * weight * silu(z)
//
// Means run over a group. Without z it is rms_norm. Computed in float32 (float64 for float64).
// Differentiable: x, z, weight. Saved for backward: the inputs.
//
// Errors: those of rms_norm; z of another shape or dtype than x.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct GatedRmsNormArgs {
  at::Tensor x;                                     // (..., d)
  std::optional<at::Tensor> z = std::nullopt;       // (..., d), x's dtype
  std::optional<at::Tensor> weight = std::nullopt;  // (d), x's dtype or float32
  double eps = 1e-5;
  std::optional<int64_t> group_size = std::nullopt;  // divides d; default d
  bool norm_before_gate = false;
};

at::Tensor gated_rms_norm(const GatedRmsNormArgs& args);  // (..., d), x's dtype and stride order

// The same in plain ATen calls, on any device, differentiable to any order.
at::Tensor gated_rms_norm_ref(const GatedRmsNormArgs& args);

// The registered helpers, through the dispatcher. Gradients: dx, dz, dweight; dz is a 0-element
// tensor without z, dweight unless needed.
at::Tensor gated_rms_norm_fwd(const GatedRmsNormArgs& args);
std::tuple<at::Tensor, at::Tensor, at::Tensor> gated_rms_norm_bwd(const at::Tensor& dy,
                                                                  const GatedRmsNormArgs& args,
                                                                  bool need_dweight);

// Shared by the CPU, CUDA and Meta kernels; throws with op, argument, wanted and found.
void check_gated_rms_norm(const char* op, const GatedRmsNormArgs& args);

}  // namespace aspis::ops
