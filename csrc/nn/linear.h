#pragma once
// Matrices with names: a linear map and an embedding table.

#include <ATen/core/Tensor.h>

#include <optional>

#include "nn/module.h"

namespace aspis::nn {

// y = x W^T + b. Parameters: weight (out, in); bias (out), which never decays.
class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, bool bias, const at::TensorOptions& options);

  // x (..., in) -> (..., out)
  at::Tensor forward(const at::Tensor& x) const;

  const at::Tensor& weight() const { return weight_; }
  const std::optional<at::Tensor>& bias() const { return bias_; }

 private:
  at::Tensor weight_;               // (out, in)
  std::optional<at::Tensor> bias_;  // (out)
};

// Parameter: weight (v, d).
class Embedding : public Module {
 public:
  Embedding(int64_t vocab_size, int64_t d_model, const at::TensorOptions& options);

  // tokens (...) int64 in [0, v) -> (..., d). An id out of range is refused on the CPU.
  at::Tensor forward(const at::Tensor& tokens) const;

  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_;  // (v, d)
};

}  // namespace aspis::nn
