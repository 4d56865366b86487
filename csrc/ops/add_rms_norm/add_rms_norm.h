#pragma once
// Residual addition and RMS normalisation in one pass:
//
//   new_residual = x + residual            float32 with residual_in_fp32, else residual's dtype
//   y = rms_norm(new_residual) * weight    from the unrounded sum, in x's dtype
//
// Differentiable: x, residual, weight. Saved for backward: new_residual and weight.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct AddRmsNormArgs {
  at::Tensor x;                       // (..., d)
  at::Tensor residual;                // (..., d), x's dtype or float32
  std::optional<at::Tensor> weight;   // (d), x's dtype or float32
  double eps = 1e-5;
  bool residual_in_fp32 = false;
};

std::tuple<at::Tensor, at::Tensor> add_rms_norm(const AddRmsNormArgs& args);  // y, new_residual
std::tuple<at::Tensor, at::Tensor> add_rms_norm_ref(const AddRmsNormArgs& args);

}  // namespace aspis::ops
