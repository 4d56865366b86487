#include "nn/causal_conv.h"

#include <ATen/ops/zeros.h>

#include "nn/backend.h"

namespace aspis::nn {

CausalConv::CausalConv(int64_t channels, int64_t width, bool bias, const std::string& activation,
                       OpsBackend backend, const at::TensorOptions& options)
    : activation_(activation), backend_(backend) {
  weight_ = add_parameter("weight", {channels, width}, options);
  if (bias) bias_ = add_parameter("bias", {channels}, options, {.decay = false});
}

at::Tensor CausalConv::forward(const at::Tensor& x, const Segments& segments) const {
  ops::CausalConv1dArgs args;
  args.x = x;
  args.weight = weight_;
  args.bias = bias_;
  args.activation = activation_;
  args.seq_idx = segments.seq_idx;
  args.cu_seqlens = segments.cu_seqlens;
  return std::get<0>(causal_conv1d(backend_, args));
}

at::Tensor CausalConv::make_state(int64_t b) const {
  return at::zeros({b, weight_.size(0), weight_.size(1) - 1},
                   weight_.options().requires_grad(false));
}

at::Tensor CausalConv::step(const at::Tensor& x, at::Tensor& state) const {
  if (x.size(1) <= kMostStepTokens) {
    ops::CausalConv1dStepArgs args;
    args.x = x;
    args.state = state;
    args.weight = weight_;
    args.bias = bias_;
    args.activation = activation_;
    return causal_conv1d_step(backend_, args);
  }
  ops::CausalConv1dArgs args;
  args.x = x;
  args.weight = weight_;
  args.bias = bias_;
  args.activation = activation_;
  args.initial_state = state;
  args.return_last_state = true;
  const auto [y, last] = causal_conv1d(backend_, args);
  state = last;
  return y;
}

}  // namespace aspis::nn
