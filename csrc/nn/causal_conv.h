#pragma once
// The short causal convolution of the Mamba layers with its parameters: weight (channels, width)
// and bias (channels), which never decays.

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "nn/mixer.h"
#include "nn/module.h"

namespace aspis::nn {

class CausalConv : public Module {
 public:
  // activation "silu" or "none".
  CausalConv(int64_t channels, int64_t width, bool bias, const std::string& activation,
             OpsBackend backend, const at::TensorOptions& options);

  // x (b, l, channels) -> the same shape
  at::Tensor forward(const at::Tensor& x, const Segments& segments) const;

  // The window before the first token: zeros (b, channels, width - 1).
  at::Tensor make_state(int64_t b) const;

  // t further tokens x (b, t, channels); `state` moves on.
  at::Tensor step(const at::Tensor& x, at::Tensor& state) const;

 private:
  std::string activation_;
  OpsBackend backend_;
  at::Tensor weight_;               // (channels, width)
  std::optional<at::Tensor> bias_;  // (channels)
};

}  // namespace aspis::nn
