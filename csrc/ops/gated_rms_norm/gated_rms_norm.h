#pragma once
// RMS normalisation with a gate, per group of the last dimension (Mamba-2's out-norm):
//
//   norm_before_gate = false   y = rms_norm(x * silu(z)) * weight
//   norm_before_gate = true    y = rms_norm(x) * weight * silu(z)
//
// Without z it is rms_norm. Differentiable: x, z, weight. Saved for backward: the inputs.

#include <ATen/core/Tensor.h>

#include <optional>

namespace aspis::ops {

struct GatedRmsNormArgs {
  at::Tensor x;                        // (..., d)
  std::optional<at::Tensor> z;         // (..., d), x's dtype
  std::optional<at::Tensor> weight;    // (d), x's dtype or float32
  double eps = 1e-5;
  std::optional<int64_t> group_size;   // divides d; default d
  bool norm_before_gate = false;
};

at::Tensor gated_rms_norm(const GatedRmsNormArgs& args);  // (..., d), x's dtype and stride order
at::Tensor gated_rms_norm_ref(const GatedRmsNormArgs& args);

}  // namespace aspis::ops
