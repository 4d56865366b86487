#pragma once
// Root mean square normalisation over the last dimension, or over groups of it:
//
//   y = x / sqrt(mean(x^2 over the group) + eps) * weight
//
// Computed in float32 (float64 for float64). Differentiable: x, weight. Saved for backward: the inputs.

#include <ATen/core/Tensor.h>

#include <optional>

namespace aspis::ops {

struct RmsNormArgs {
  at::Tensor x;                        // (..., d)
  std::optional<at::Tensor> weight;    // (d), x's dtype or float32
  double eps = 1e-5;
  std::optional<int64_t> group_size;   // divides d; default d
};

at::Tensor rms_norm(const RmsNormArgs& args);  // (..., d), x's dtype and stride order
at::Tensor rms_norm_ref(const RmsNormArgs& args);

}  // namespace aspis::ops
