#pragma once
// Causal depthwise convolution over time.
//
//   y[b, l, d] = act(bias[d] + sum over k < w of weight[d, k] * x[b, l - w + 1 + k, d])
//
// Positions before a document's start come from its initial state (zeros without one). Any w >= 1,
// any strides. The window sees a document's real tokens only: padding is passed over, and what lies
// beyond the document's start is never seen. Differentiable: x, weight, bias, initial_state. Saved
// for backward: the inputs; the activation's argument is computed again.
//
// Errors name the argument, what it must be and what was found (c10::Error).

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <tuple>

namespace aspis::ops {

struct CausalConv1dArgs {
  at::Tensor x;                             // (b, l, d)
  at::Tensor weight;                        // (d, w), x's dtype or float32
  std::optional<at::Tensor> bias;           // (d), x's dtype or float32
  std::string activation = "none";          // "none" | "silu"
  std::optional<at::Tensor> initial_state;  // (b | docs, d, w - 1), x's dtype, oldest input first
  std::optional<at::Tensor> seq_idx;        // (b, l) int32, see ops/documents.h
  std::optional<at::Tensor> cu_seqlens;     // (docs + 1) int32, b = 1
  bool reverse = false;                     // time runs from right to left
  bool return_last_state = false;
};

// y (b, l, d) with x's dtype and stride order; last_state (b | docs, d, w - 1) in x's dtype, or an
// empty tensor when it was not asked for. last_state holds the last w - 1 inputs, oldest first, as
// the next call's initial_state; of a document shorter than w - 1 its tail ahead of the tokens
// stays the tail of the initial state (or zeros).
std::tuple<at::Tensor, at::Tensor> causal_conv1d(const CausalConv1dArgs& args);

// The same in plain ATen calls: any device, differentiable to any order, slow.
std::tuple<at::Tensor, at::Tensor> causal_conv1d_ref(const CausalConv1dArgs& args);

// Decode: t >= 1 further tokens; `state` is updated in place. Inference only. Without slots row i
// uses slot i and state has b slots. All slots are read before any is written. On the CPU slots out
// of range and two rows that write the same slot are refused. The state is rounded to its dtype
// once per call.
struct CausalConv1dStepArgs {
  at::Tensor x;                    // (b, t, d)
  at::Tensor state;                // (slots, d, w - 1), any floating dtype, updated in place
  at::Tensor weight;               // (d, w)
  std::optional<at::Tensor> bias;  // (d)
  std::string activation = "none";
  std::optional<at::Tensor>
      src_slots;  // (b) int32: slot read by each row; negative = padding, y = 0
  std::optional<at::Tensor>
      dst_slots;  // (b) int32: slot written; negative = not written; default src_slots
};
at::Tensor causal_conv1d_step(const CausalConv1dStepArgs& args);  // y (b, t, d)
at::Tensor causal_conv1d_step_ref(const CausalConv1dStepArgs& args);

}  // namespace aspis::ops
