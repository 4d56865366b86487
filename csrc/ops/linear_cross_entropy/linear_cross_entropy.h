#pragma once
// Output projection and cross entropy in one op that never holds the (t, v) logits:
//
//   logits = logit_scale * hidden weight^T;   lse = logsumexp(logits)
//   nll[t] = lse - (1 - s) logits[target] - s mean(logits) + z_loss lse^2       s = label_smoothing
//   loss_sum = sum over t with target != ignore_index of token_weights[t] * nll[t]
//
// num_valid counts the targets that are not ignore_index. The mean is the caller's division, so that
// accumulation steps and ranks add up exactly. Differentiable: hidden, weight (neither gradient is computed
// for an input that does not require it); token_weights is not. A target outside [0, v) that is not
// ignore_index is refused on the CPU.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct LinearCrossEntropyArgs {
  at::Tensor hidden;                        // (t, d)
  at::Tensor weight;                        // (v, d), hidden's dtype
  at::Tensor targets;                       // (t) int64
  std::optional<at::Tensor> token_weights;  // (t) float32
  int64_t ignore_index = -100;
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  double logit_scale = 1.0;
};

// loss_sum: float32 scalar (float64 for float64); num_valid: int64 scalar.
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy(const LinearCrossEntropyArgs& args);
std::tuple<at::Tensor, at::Tensor> linear_cross_entropy_ref(const LinearCrossEntropyArgs& args);

// nll (t) of each token, float32 (float64 for float64), 0 where ignored; no label smoothing, no z-loss.
// Forward only.
struct TokenNllArgs {
  at::Tensor hidden;   // (t, d)
  at::Tensor weight;   // (v, d)
  at::Tensor targets;  // (t) int64
  int64_t ignore_index = -100;
  double logit_scale = 1.0;
};
at::Tensor token_nll(const TokenNllArgs& args);
at::Tensor token_nll_ref(const TokenNllArgs& args);

}  // namespace aspis::ops
