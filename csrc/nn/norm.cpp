#include "nn/norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>

#include "nn/backend.h"

namespace aspis::nn {

void fields(config::Fields& f, NormConfig& c) {
  f.choice("type", c.type, {"rms", "layer", "layer_1p"},
           "Root mean square, layer normalisation, or the latter with its gain stored minus one.");
  f.number("eps", c.eps, "Added to the mean square or the variance.", {.min = 0.0});
}

Norm::Norm(const NormConfig& config, int64_t d, OpsBackend backend,
           const at::TensorOptions& options)
    : config_(config), backend_(backend) {
  weight_ = add_parameter("weight", {d}, options, {.decay = false});
  if (config.type != "rms") bias_ = add_parameter("bias", {d}, options, {.decay = false});
}

at::Tensor Norm::forward(const at::Tensor& x) const {
  if (config_.type == "rms") {
    ops::RmsNormArgs args;
    args.x = x;
    args.weight = weight_;
    args.eps = config_.eps;
    return rms_norm(backend_, args);
  }
  const at::Tensor gain = config_.type == "layer_1p" ? weight_ + 1 : weight_;
  return at::layer_norm(x, weight_.sizes(), gain, bias_, config_.eps);
}

std::vector<std::string> Norm::ops_used() const {
  if (config_.type == "rms") return {"rms_norm"};
  return {};
}

}  // namespace aspis::nn
