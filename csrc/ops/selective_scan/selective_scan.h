#pragma once
// Selective scan, the recurrence of Mamba-1. Per channel d (group g = d / (d_total / groups)), state n:
//
//   dt = softplus(delta + delta_bias)                        softplus optional
//   h[l] = exp(dt[l] A[n]) h[l-1] + dt[l] x[l] B[l, n]
//   y[l] = (sum over n of C[l, n] h[l, n] + D x[l]) * silu(z[l])       D and z optional
//
// A is real and used as it is given (negative for a decay); complex A is refused. Differentiable: x, delta,
// A, B, C, D, z, delta_bias, initial_state; last_state carries gradient. Saved for backward: the inputs and
// states every few steps (docs/kernels/selective_scan.md has the formula).

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct SelectiveScanArgs {
  at::Tensor x;                             // (b, l, d)
  at::Tensor delta;                         // (b, l, d), x's dtype
  at::Tensor A;                             // (d, n), float32 (float64 beside float64)
  at::Tensor B;                             // (b, l, g, n), x's dtype
  at::Tensor C;                             // (b, l, g, n), x's dtype
  std::optional<at::Tensor> D;              // (d), x's dtype or float32
  std::optional<at::Tensor> z;              // (b, l, d), x's dtype
  std::optional<at::Tensor> delta_bias;     // (d), x's dtype or float32
  bool delta_softplus = false;
  std::optional<at::Tensor> initial_state;  // (b | docs, d, n) float32 (float64 beside float64)
  std::optional<at::Tensor> seq_idx;        // (b, l) int32, see ops/documents.h
  std::optional<at::Tensor> cu_seqlens;     // (docs + 1) int32, b = 1
  bool reverse = false;
  bool return_last_state = false;
};

// y (b, l, d) with x's dtype and stride order; last_state (b | docs, d, n) float32 (float64 for float64),
// or an empty tensor when it was not asked for.
std::tuple<at::Tensor, at::Tensor> selective_scan(const SelectiveScanArgs& args);

// The same in plain ATen calls: any device, differentiable to any order, slow.
std::tuple<at::Tensor, at::Tensor> selective_scan_ref(const SelectiveScanArgs& args);

// Decode: t >= 1 further tokens; `state` is updated in place. Inference only.
struct SelectiveScanStepArgs {
  at::Tensor state;                        // (slots, d, n), any floating dtype, updated in place
  at::Tensor x;                            // (b, t, d)
  at::Tensor delta;                        // (b, t, d)
  at::Tensor A;                            // (d, n)
  at::Tensor B;                            // (b, t, g, n)
  at::Tensor C;                            // (b, t, g, n)
  std::optional<at::Tensor> D;             // (d)
  std::optional<at::Tensor> z;             // (b, t, d)
  std::optional<at::Tensor> delta_bias;    // (d)
  bool delta_softplus = false;
  std::optional<at::Tensor> src_slots;     // (b) int32: slot read by each row; negative = padding, y = 0
  std::optional<at::Tensor> dst_slots;     // (b) int32: slot written; negative = not written; default src_slots
};
at::Tensor selective_scan_step(const SelectiveScanStepArgs& args);  // y (b, t, d)
at::Tensor selective_scan_step_ref(const SelectiveScanStepArgs& args);

}  // namespace aspis::ops
