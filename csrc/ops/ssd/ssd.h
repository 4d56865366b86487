#pragma once
// State space duality (SSD), the recurrence of Mamba-2. Per head h (group g = h / (heads /
// groups)), with a state of p x n numbers:
//
//   dt = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max)   softplus and limits optional
//   S[l] = exp(dt[l] A) S[l-1] + dt[l] x[l] B[l]^T
//   y[l] = (S[l] C[l] + D x[l]) * silu(z[l])                 D and z optional
//
// A is used as it is given (negative for a decay). Differentiable: x, dt, A, B, C, D, z, dt_bias,
// initial_state; last_state carries gradient. Saved for backward: the inputs and states at chunk
// borders (docs/kernels/ssd.md has the formula).

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct SsdArgs {
  at::Tensor x;                       // (b, l, h, p)
  at::Tensor dt;                      // (b, l, h), x's dtype or float32
  at::Tensor A;                       // (h), real, x's dtype or float32
  at::Tensor B;                       // (b, l, g, n), x's dtype
  at::Tensor C;                       // (b, l, g, n), x's dtype
  std::optional<at::Tensor> D;        // (h) or (h, p), x's dtype or float32
  std::optional<at::Tensor> z;        // (b, l, h, p), x's dtype
  std::optional<at::Tensor> dt_bias;  // (h), x's dtype or float32
  bool dt_softplus = false;
  std::optional<double> dt_min;
  std::optional<double> dt_max;
  std::optional<at::Tensor> initial_state;  // (b | docs, h, p, n) float32 (float64 beside float64)
  std::optional<at::Tensor> seq_idx;        // (b, l) int32, see ops/documents.h
  std::optional<at::Tensor> cu_seqlens;     // (docs + 1) int32, b = 1
  bool reverse = false;
  bool return_last_state = false;
};

// y (b, l, h, p) with x's dtype and stride order; last_state (b | docs, h, p, n) float32 (float64
// for float64), or an empty tensor when it was not asked for.
std::tuple<at::Tensor, at::Tensor> ssd(const SsdArgs& args);

// The same in plain ATen calls: any device, differentiable to any order, slow.
std::tuple<at::Tensor, at::Tensor> ssd_ref(const SsdArgs& args);

// Decode: t >= 1 further tokens; `state` is updated in place. Inference only.
struct SsdStepArgs {
  at::Tensor state;                   // (slots, h, p, n), any floating dtype, updated in place
  at::Tensor x;                       // (b, t, h, p)
  at::Tensor dt;                      // (b, t, h)
  at::Tensor A;                       // (h)
  at::Tensor B;                       // (b, t, g, n)
  at::Tensor C;                       // (b, t, g, n)
  std::optional<at::Tensor> D;        // (h) or (h, p)
  std::optional<at::Tensor> z;        // (b, t, h, p)
  std::optional<at::Tensor> dt_bias;  // (h)
  bool dt_softplus = false;
  std::optional<double> dt_min;
  std::optional<double> dt_max;
  std::optional<at::Tensor>
      src_slots;  // (b) int32: slot read by each row; negative = padding, y = 0
  std::optional<at::Tensor>
      dst_slots;  // (b) int32: slot written; negative = not written; default src_slots
};
at::Tensor ssd_step(const SsdStepArgs& args);  // y (b, t, h, p)
at::Tensor ssd_step_ref(const SsdStepArgs& args);

}  // namespace aspis::ops
