#include "nn/mlp.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include <cmath>

#include "nn/positions.h"

namespace aspis::nn {

namespace {

const MixerRegistration kRegistered(
    mixer_kind<Mlp, MlpConfig>('-', "mlp", "Position-wise feed-forward layer."));

struct NoState : MixerCache {};

int64_t width(const MlpConfig& config, const MixerContext& context) {
  if (config.ffn_hidden) return *config.ffn_hidden;
  const double wanted = config.ratio * static_cast<double>(context.d_model);
  const double whole = std::round(wanted);
  if (whole < 1 || std::abs(wanted - whole) > 1e-6 * wanted) {
    fail_config(context, "ratio",
                "ratio * d_model must be a whole number, got " + std::to_string(config.ratio) +
                    " * " + std::to_string(context.d_model) + " (ffn_hidden states it directly)");
  }
  return static_cast<int64_t>(whole);
}

}  // namespace

void fields(config::Fields& f, MlpConfig& c) {
  f.number("ratio", c.ratio, "Inner width over d_model, where ffn_hidden is null.", {.min = 0.0});
  f.optional_integer("ffn_hidden", c.ffn_hidden, "Inner width; null: ratio * d_model.", {.min = 1});
  f.choice("act", c.act, {"gelu", "gelu_tanh", "relu2", "swiglu", "silu"},
           "gelu is the exact one (erf), relu2 the square of relu; swiglu has a gate projection.");
  f.boolean("bias", c.bias, "Biases in the projections.");
}

Mlp::Mlp(const MlpConfig& config, const MixerContext& context)
    : config_(config), d_model_(context.d_model), ffn_hidden_(width(config, context)) {
  const auto linear = [&](const char* name, int64_t in, int64_t out) {
    return add_module(name, std::make_shared<Linear>(in, out, config.bias, context.options));
  };
  if (config.act == "swiglu") gate_proj_ = linear("gate_proj", d_model_, ffn_hidden_);
  up_proj_ = linear("up_proj", d_model_, ffn_hidden_);
  down_proj_ = linear("down_proj", ffn_hidden_, d_model_);
}

at::Tensor Mlp::apply(const at::Tensor& hidden) const {
  at::Tensor inner = up_proj_->forward(hidden);  // (b, l, ffn)
  if (config_.act == "gelu") {
    inner = at::gelu(inner, "none");
  } else if (config_.act == "gelu_tanh") {
    inner = at::gelu(inner, "tanh");
  } else if (config_.act == "relu2") {
    inner = at::relu(inner);
    inner = inner * inner;
  } else if (config_.act == "swiglu") {
    inner = at::silu(gate_proj_->forward(hidden)) * inner;
  } else {
    inner = at::silu(inner);
  }
  return down_proj_->forward(inner);
}

at::Tensor Mlp::forward(const at::Tensor& hidden, const Segments& segments) const {
  check_segments("mlp", hidden, segments);
  return zero_padding(apply(hidden), segments);
}

std::unique_ptr<MixerCache> Mlp::make_cache(int64_t) const {
  return std::make_unique<NoState>();
}

at::Tensor Mlp::step(const at::Tensor& hidden, MixerCache&) const {
  const at::NoGradGuard no_grad;
  return apply(hidden);
}

std::vector<std::string> Mlp::ops_used() const {
  return {};
}

MixerFacts Mlp::facts(int64_t, int64_t, int64_t) const {
  const double matrices = gate_proj_ ? 3 : 2;
  MixerFacts facts;
  facts.forward_flops_per_token =
      2 * matrices * static_cast<double>(d_model_) * static_cast<double>(ffn_hidden_);
  return facts;
}

}  // namespace aspis::nn
