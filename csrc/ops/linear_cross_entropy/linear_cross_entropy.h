#pragma once
// Output projection and cross entropy in one op that never holds the (t, v) logits:
//
//   logits = logit_scale * hidden weight^T;   lse = logsumexp(logits)
//   nll[t] = lse - (1 - s) logits[target] - s mean(logits) + z_loss lse^2       s = label_smoothing
//   loss_sum = sum over t with target != ignore_index of token_weights[t] * nll[t]
//
// num_valid counts the targets that are not ignore_index. The mean is the caller's division, so
// that accumulation steps and ranks add up exactly. Differentiable: hidden, weight (neither
// gradient is computed for an input that does not require it); token_weights is not. Gradients are
// computed in the forward, chunk by chunk of tokens, and saved; the backward scales them.
//
// Errors: shapes and dtypes; label_smoothing outside [0, 1], z_loss negative, anything not finite;
// a token_weights that requires grad; on the CPU, a target outside [0, v) that is not ignore_index.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct LinearCrossEntropyArgs {
  at::Tensor hidden;                                       // (t, d)
  at::Tensor weight;                                       // (v, d), hidden's dtype, v >= 1
  at::Tensor targets;                                      // (t) int64
  std::optional<at::Tensor> token_weights = std::nullopt;  // (t) float32
  int64_t ignore_index = -100;
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  double logit_scale = 1.0;
};

// loss_sum: float32 scalar (float64 for float64); num_valid: int64 scalar.
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const LinearCrossEntropyArgs& args);

// The same in plain ATen calls, holding all logits, on any device, differentiable to any order.
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy_ref(const LinearCrossEntropyArgs& args);

// The registered helpers, through the dispatcher. fwd: loss_sum, num_valid, dhidden (t, d) in
// hidden's dtype, dweight (v, d) in float32 (float64 for float64: a sum over all tokens can leave
// float16's range before the caller divides by their number). bwd: both times dloss, in hidden's
// dtype. A gradient that is not needed is a 0-element tensor.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> linear_cross_entropy_fwd(
    const LinearCrossEntropyArgs& args, bool need_dhidden, bool need_dweight);
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy_bwd(const at::Tensor& dloss,
                                                            const at::Tensor& hidden,
                                                            const at::Tensor& weight,
                                                            const at::Tensor& dhidden,
                                                            const at::Tensor& dweight);

// Negative log likelihood (t) of each token, float32 (float64 for float64), 0 where ignored; no
// label smoothing, no z-loss. Forward only: an input that requires grad is refused.
struct TokenNllArgs {
  at::Tensor hidden;   // (t, d)
  at::Tensor weight;   // (v, d), hidden's dtype, v >= 1
  at::Tensor targets;  // (t) int64
  int64_t ignore_index = -100;
  double logit_scale = 1.0;
};
at::Tensor token_nll(const TokenNllArgs& args);
at::Tensor token_nll_ref(const TokenNllArgs& args);

// Shared by the CPU, CUDA and Meta kernels; throws with op, argument, wanted and found.
void check_linear_cross_entropy(const char* op, const LinearCrossEntropyArgs& args);
void check_linear_cross_entropy_backward(const at::Tensor& dloss, const at::Tensor& hidden,
                                         const at::Tensor& weight, const at::Tensor& dhidden,
                                         const at::Tensor& dweight);

}  // namespace aspis::ops
