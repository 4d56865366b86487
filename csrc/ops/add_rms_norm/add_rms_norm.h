#pragma once
// Residual addition and RMS normalisation in one pass:
//
//   new_residual = x + residual
//   y = new_residual / sqrt(mean(new_residual^2) + eps) * weight
//
// y is taken from the unrounded sum and has x's dtype; new_residual is stored in float32 with
// residual_in_fp32 (float64 stays), otherwise in residual's dtype.
//
// Differentiable: x, residual, weight. Saved for backward: new_residual and weight.
//
// Errors: those of rms_norm; residual of another shape than x, or neither x's dtype nor float32.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct AddRmsNormArgs {
  at::Tensor x;                                     // (..., d)
  at::Tensor residual;                              // (..., d), x's dtype or float32
  std::optional<at::Tensor> weight = std::nullopt;  // (d), x's dtype or float32
  double eps = 1e-5;
  bool residual_in_fp32 = false;
};

// y (..., d) in x's dtype and stride order; new_residual (..., d) in residual's stride order.
std::tuple<at::Tensor, at::Tensor> add_rms_norm(const AddRmsNormArgs& args);

// The same in plain ATen calls, on any device, differentiable to any order.
std::tuple<at::Tensor, at::Tensor> add_rms_norm_ref(const AddRmsNormArgs& args);

// The registered helpers, through the dispatcher.
std::tuple<at::Tensor, at::Tensor> add_rms_norm_fwd(const AddRmsNormArgs& args);

struct AddRmsNormBackwardArgs {
  at::Tensor dy;                                           // (..., d)
  std::optional<at::Tensor> dnew_residual = std::nullopt;  // (..., d), absent: zero
  at::Tensor new_residual;                                 // (..., d), as the forward returned it
  std::optional<at::Tensor> weight = std::nullopt;         // (d)
  double eps = 1e-5;
  at::ScalarType residual_dtype = at::kFloat;
  bool need_dweight = true;
};
// dx, dresidual, dweight. The sum has one gradient: where x (that is dy) and residual have the same
// dtype, dx is a 0-element tensor and dresidual is the gradient of both. dweight is a 0-element
// tensor unless needed.
std::tuple<at::Tensor, at::Tensor, at::Tensor> add_rms_norm_bwd(const AddRmsNormBackwardArgs& args);

// Shared by the CPU, CUDA and Meta kernels; throws with op, argument, wanted and found.
void check_add_rms_norm(const char* op, const AddRmsNormArgs& args);
void check_add_rms_norm_backward(const AddRmsNormBackwardArgs& args);
at::ScalarType new_residual_dtype(const at::Tensor& residual, bool residual_in_fp32);

}  // namespace aspis::ops
