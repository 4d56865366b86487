#include "nn/linear.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>

namespace aspis::nn {

Linear::Linear(int64_t in, int64_t out, bool bias, const at::TensorOptions& options) {
  weight_ = add_parameter("weight", {out, in}, options);
  if (bias) bias_ = add_parameter("bias", {out}, options, {.decay = false});
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  return at::linear(x, weight_, bias_);
}

Embedding::Embedding(int64_t vocab_size, int64_t d_model, const at::TensorOptions& options) {
  weight_ = add_parameter("weight", {vocab_size, d_model}, options);
}

at::Tensor Embedding::forward(const at::Tensor& tokens) const {
  return at::embedding(weight_, tokens);
}

}  // namespace aspis::nn
