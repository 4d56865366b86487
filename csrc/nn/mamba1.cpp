#include "nn/mamba1.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include "core/dispatch.h"
#include "nn/backend.h"
#include "nn/positions.h"

namespace aspis::nn {

namespace {

const MixerRegistration kRegistered(mixer_kind<Mamba1, Mamba1Config>('m', "mamba1",
                                                                     "Mamba-1 state space layer."));

}  // namespace

void fields(config::Fields& f, Mamba1Config& c) {
  f.integer("d_state", c.d_state, "State size per channel.", {.min = 1});
  f.integer("expand", c.expand, "Inner width over d_model.", {.min = 1});
  f.integer("d_conv", c.d_conv, "Width of the causal convolution.", {.min = 1});
  f.optional_integer("dt_rank", c.dt_rank, "Rank of dt's projection; null: ceil(d_model / 16).",
                     {.min = 1});
  f.boolean("conv_bias", c.conv_bias, "Bias in the convolution.");
  f.choice("conv_activation", c.conv_activation, {"silu", "none"}, "After the convolution.");
  f.boolean("bias", c.bias, "Biases in the input and output projections.");
  f.number("dt_min", c.dt_min, "Initialisation: smallest dt.", {.min = 0.0});
  f.number("dt_max", c.dt_max, "Initialisation: largest dt.", {.min = 0.0});
  f.number("dt_init_floor", c.dt_init_floor, "Initialisation: dt is raised to this.", {.min = 0.0});
  f.number("dt_scale", c.dt_scale,
           "Initialisation: dt_proj.weight is uniform within +-dt_scale / sqrt(dt_rank).",
           {.min = 0.0});
}

struct Mamba1::Cache : MixerCache {
  at::Tensor conv;   // (b, d_inner, d_conv - 1)
  at::Tensor state;  // (b, d_inner, d_state)
};

Mamba1::Mamba1(const Mamba1Config& config, const MixerContext& context)
    : config_(config),
      backend_(context.backend),
      d_model_(context.d_model),
      d_inner_(config.expand * context.d_model),
      dt_rank_(config.dt_rank.value_or((context.d_model + 15) / 16)) {
  if (config.dt_min > config.dt_max) {
    fail_config(context, "dt_max", "must not be smaller than dt_min");
  }
  const at::TensorOptions& options = context.options;
  const at::TensorOptions precise =
      options.dtype(compute_type(c10::typeMetaToScalarType(options.dtype())));
  in_proj_ =
      add_module("in_proj", std::make_shared<Linear>(d_model_, 2 * d_inner_, config.bias, options));
  conv1d_ =
      add_module("conv1d", std::make_shared<CausalConv>(d_inner_, config.d_conv, config.conv_bias,
                                                        config.conv_activation, backend_, options));
  x_proj_ = add_module("x_proj", std::make_shared<Linear>(d_inner_, dt_rank_ + 2 * config.d_state,
                                                          /*bias=*/false, options));
  dt_weight_ = add_parameter("dt_proj.weight", {d_inner_, dt_rank_}, options);
  dt_bias_ = add_parameter("dt_proj.bias", {d_inner_}, precise, {.decay = false});
  a_log_ = add_parameter("A_log", {d_inner_, config.d_state}, precise, {.decay = false});
  d_ = add_parameter("D", {d_inner_}, precise, {.decay = false});
  out_proj_ =
      add_module("out_proj", std::make_shared<Linear>(d_inner_, d_model_, config.bias, options));
}

at::Tensor Mamba1::run(const at::Tensor& hidden, const Segments& segments, Cache* cache) const {
  const auto xz = in_proj_->forward(hidden).split_with_sizes({d_inner_, d_inner_}, -1);
  const at::Tensor x = cache ? conv1d_->step(xz[0], cache->conv)
                             : conv1d_->forward(xz[0], segments);  // (b, l, d_inner)
  return out_proj_->forward(scan(x, xz[1], segments, cache));
}

at::Tensor Mamba1::scan(const at::Tensor& x, const at::Tensor& z, const Segments& segments,
                        Cache* cache) const {
  const auto dbc =
      x_proj_->forward(x).split_with_sizes({dt_rank_, config_.d_state, config_.d_state}, -1);
  // What the sequence op and the step op have in common.
  const auto fill = [&](auto& args) {
    args.x = x;
    args.delta = at::linear(dbc[0], dt_weight_);  // (b, l, d_inner)
    args.A = -a_log_.exp();                       // (d_inner, n)
    args.B = dbc[1].unsqueeze(2);                 // (b, l, 1, n)
    args.C = dbc[2].unsqueeze(2);
    args.D = d_;
    args.z = z;
    args.delta_bias = dt_bias_;
    args.delta_softplus = true;
  };
  if (cache && x.size(1) <= kMostStepTokens) {
    ops::SelectiveScanStepArgs args;
    args.state = cache->state;
    fill(args);
    return selective_scan_step(backend_, args);
  }
  ops::SelectiveScanArgs args;
  fill(args);
  args.seq_idx = segments.seq_idx;
  args.cu_seqlens = segments.cu_seqlens;
  args.return_last_state = cache != nullptr;
  if (cache) args.initial_state = cache->state;
  const auto [y, last] = selective_scan(backend_, args);
  if (cache) cache->state = last;
  return y;
}

at::Tensor Mamba1::forward(const at::Tensor& hidden, const Segments& segments) const {
  const at::Tensor out = run(hidden, segments, nullptr);
  // The ops give zeros at padding, which only a bias lifts.
  return config_.bias ? zero_padding(out, segments) : out;
}

std::unique_ptr<MixerCache> Mamba1::make_cache(int64_t b) const {
  auto cache = std::make_unique<Cache>();
  cache->conv = conv1d_->make_state(b);
  cache->state = at::zeros({b, d_inner_, config_.d_state}, a_log_.options().requires_grad(false));
  return cache;
}

at::Tensor Mamba1::step(const at::Tensor& hidden, MixerCache& cache) const {
  const at::NoGradGuard no_grad;
  return run(hidden, {}, &dynamic_cast<Cache&>(cache));
}

std::vector<std::string> Mamba1::ops_used() const {
  return {"causal_conv1d", "selective_scan"};
}

MixerFacts Mamba1::facts(int64_t, int64_t kv_bytes, int64_t state_bytes) const {
  const double d = static_cast<double>(d_model_), inner = static_cast<double>(d_inner_);
  const double n = static_cast<double>(config_.d_state), rank = static_cast<double>(dt_rank_);
  MixerFacts facts;
  facts.state_bytes_per_sequence =
      d_inner_ * config_.d_state * state_bytes + d_inner_ * (config_.d_conv - 1) * kv_bytes;
  facts.forward_flops_per_token = 2 * d * 2 * inner + 2 * inner * (rank + 2 * n) +
                                  2 * rank * inner + 7 * inner * n + 2 * inner * d;
  return facts;
}

}  // namespace aspis::nn
