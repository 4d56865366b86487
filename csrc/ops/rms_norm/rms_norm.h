#pragma once
// Root mean square normalisation over the last dimension, or over groups of it:
//
//   y = x / sqrt(mean(x^2 over the group) + eps) * weight
//
// Computed in float32 (float64 for float64). Differentiable: x, weight. Saved for backward: the
// inputs; the root mean square is computed again, as the row is read anyway.
//
// Errors: x without a dimension or not floating; weight not (d), or neither x's dtype nor float32;
// group_size below 1 or not a divisor of d; eps negative or not finite.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct RmsNormArgs {
  at::Tensor x;                                     // (..., d)
  std::optional<at::Tensor> weight = std::nullopt;  // (d), x's dtype or float32
  double eps = 1e-5;
  std::optional<int64_t> group_size = std::nullopt;  // divides d; default d
};

at::Tensor rms_norm(const RmsNormArgs& args);  // (..., d), x's dtype and stride order

// The same in plain ATen calls, on any device, differentiable to any order.
at::Tensor rms_norm_ref(const RmsNormArgs& args);

// The registered helpers, through the dispatcher. dweight is a 0-element tensor unless needed.
at::Tensor rms_norm_fwd(const RmsNormArgs& args);
std::tuple<at::Tensor, at::Tensor> rms_norm_bwd(const at::Tensor& dy, const RmsNormArgs& args,
                                                bool need_dweight);  // dx, dweight

// Shared by all kernels of the three norm ops; throws with op, argument, wanted and found.
void check_norm(const char* op, const at::Tensor& x, const std::optional<at::Tensor>& weight,
                double eps, const std::optional<int64_t>& group_size);
// `tensor` (named `arg`) must have the sizes of `other`.
void check_same_shape(const char* op, const char* arg, const at::Tensor& tensor,
                      const char* other_arg, const at::Tensor& other);

// x / sqrt(mean(x^2) + eps) per group, in x's dtype: what the three references have in common.
at::Tensor normalise_groups_ref(const at::Tensor& x, double eps,
                                const std::optional<int64_t>& group_size);

}  // namespace aspis::ops
