#pragma once
// Normalisation over the last dimension:
//
//   rms       y = x / sqrt(mean(x^2) + eps) * weight                      (op rms_norm)
//   layer     y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias      var without Bessel's n -
//   1 layer_1p  the same with a gain stored minus one: (1 + weight)
//
// A fresh gain is 1, so weight starts at 1 for rms and layer and at 0 for layer_1p.

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"
#include "nn/mixer.h"
#include "nn/module.h"

namespace aspis::nn {

struct NormConfig {
  std::string type = "rms";
  double eps = 1e-5;
};
void fields(config::Fields& f, NormConfig& c);

// Parameters: weight (d), and bias (d) unless rms. None decays.
class Norm : public Module {
 public:
  Norm(const NormConfig& config, int64_t d, OpsBackend backend, const at::TensorOptions& options);

  // x (..., d) -> (..., d) in x's dtype
  at::Tensor forward(const at::Tensor& x) const;

  const NormConfig& config() const { return config_; }
  const at::Tensor& weight() const { return weight_; }             // (d)
  const std::optional<at::Tensor>& bias() const { return bias_; }  // (d)
  std::vector<std::string> ops_used() const;                       // names of ops/op_table.h

 private:
  NormConfig config_;
  OpsBackend backend_;
  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
};

}  // namespace aspis::nn
