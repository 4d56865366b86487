#pragma once
// Selective scan, the recurrence of Mamba-1. Per channel d (group g = d / (d_total / groups)),
// state n:
//
//   dt = softplus(delta + delta_bias)                        softplus optional
//   h[l] = exp(dt[l] A[n]) h[l-1] + dt[l] x[l] B[l, n]
//   y[l] = (sum over n of C[l, n] h[l, n] + D x[l]) * silu(z[l])       D and z optional
//
// A is real and used as it is given (negative for a decay); complex A is refused. Differentiable:
// x, delta, A, B, C, D, z, delta_bias, initial_state; last_state carries gradient. Saved for
// backward: the inputs and states every few steps (docs/kernels/selective_scan.md has the formula).
// Source: Mamba (S6), with initial states, documents and walking in reverse added.
//
// Errors: shapes, dtypes and devices are checked and named; complex A, second derivatives (the
// reference has them) and torch.func transforms are refused.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct SelectiveScanArgs {
  at::Tensor x;                                         // (b, l, d)
  at::Tensor delta;                                     // (b, l, d), x's dtype
  at::Tensor A;                                         // (d, n), float32 (float64 beside float64)
  at::Tensor B;                                         // (b, l, g, n), x's dtype
  at::Tensor C;                                         // (b, l, g, n), x's dtype
  std::optional<at::Tensor> D = std::nullopt;           // (d), x's dtype or float32
  std::optional<at::Tensor> z = std::nullopt;           // (b, l, d), x's dtype
  std::optional<at::Tensor> delta_bias = std::nullopt;  // (d), x's dtype or float32
  bool delta_softplus = false;
  // (b | docs, d, n) float32 (float64 beside float64)
  std::optional<at::Tensor> initial_state = std::nullopt;
  std::optional<at::Tensor> seq_idx = std::nullopt;     // (b, l) int32, see ops/documents.h
  std::optional<at::Tensor> cu_seqlens = std::nullopt;  // (docs + 1) int32, b = 1
  bool reverse = false;
  bool return_last_state = false;
};

// y (b, l, d) with x's dtype and stride order; last_state (b | docs, d, n) float32 (float64 for
// float64), or an empty tensor when it was not asked for.
std::tuple<at::Tensor, at::Tensor> selective_scan(const SelectiveScanArgs& args);

// The same in plain ATen calls: any device, differentiable to any order, slow.
std::tuple<at::Tensor, at::Tensor> selective_scan_ref(const SelectiveScanArgs& args);

// Decode: t >= 1 further tokens; `state` is updated in place. Inference only.
struct SelectiveScanStepArgs {
  at::Tensor state;  // (slots, d, n), any floating dtype, updated in place
  at::Tensor x;      // (b, t, d)
  at::Tensor delta;  // (b, t, d)
  at::Tensor A;      // (d, n)
  at::Tensor B;      // (b, t, g, n)
  at::Tensor C;      // (b, t, g, n)
  std::optional<at::Tensor> D = std::nullopt;           // (d)
  std::optional<at::Tensor> z = std::nullopt;           // (b, t, d)
  std::optional<at::Tensor> delta_bias = std::nullopt;  // (d)
  bool delta_softplus = false;
  // (b) int32: slot read by each row; negative = padding, y = 0 and nothing is written
  std::optional<at::Tensor> src_slots = std::nullopt;
  // (b) int32: slot written; negative = not written; default src_slots. No two rows may write one
  // slot.
  std::optional<at::Tensor> dst_slots = std::nullopt;
};
at::Tensor selective_scan_step(const SelectiveScanStepArgs& args);  // y (b, t, d)
at::Tensor selective_scan_step_ref(const SelectiveScanStepArgs& args);

// Below: for the files of this op.

// Shared by the CPU, CUDA and Meta kernels; throw with op, argument, wanted and found.
void check_selective_scan(const SelectiveScanArgs& args);
void check_selective_scan_step(const SelectiveScanStepArgs& args);

// What the forward kernels return. `states` (b, l / 32, n, d) is what backward starts from every 32
// tokens; its rows are in the kernels' own order. It is empty when nothing is saved.
using SelectiveScanForward =
    std::tuple<at::Tensor, at::Tensor, at::Tensor>;     // y, last_state, states
c10::SymInt selective_scan_saved(const at::Tensor& x);  // l / 32

// Gradients of x, delta, A, B, C, D, z, delta_bias and initial_state; 0-element for absent inputs.
using SelectiveScanGradients =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
               at::Tensor, at::Tensor>;
SelectiveScanGradients allocate_gradients(const SelectiveScanArgs& args);

// The registered ops of the same names, through the dispatcher. Without a kernel for x's device:
// refused.
SelectiveScanForward call_selective_scan_fwd(const SelectiveScanArgs& args, bool save_for_backward);
SelectiveScanGradients call_selective_scan_bwd(const std::optional<at::Tensor>& dy,
                                               const std::optional<at::Tensor>& dlast_state,
                                               const SelectiveScanArgs& args,
                                               const at::Tensor& states);

}  // namespace aspis::ops
