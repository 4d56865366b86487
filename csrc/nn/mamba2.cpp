#include "nn/mamba2.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "core/dispatch.h"
#include "nn/backend.h"
#include "nn/positions.h"

namespace aspis::nn {

namespace {

const MixerRegistration kRegistered(mixer_kind<Mamba2, Mamba2Config>('M', "mamba2",
                                                                     "Mamba-2 state space layer."));

std::string text(int64_t value) {
  return std::to_string(value);
}

}  // namespace

void fields(config::Fields& f, Mamba2Config& c) {
  f.integer("d_state", c.d_state, "State size per channel.", {.min = 1});
  f.integer("headdim", c.headdim, "Channels per head.", {.min = 1});
  f.integer("ngroups", c.ngroups, "Groups of heads that share B and C.", {.min = 1});
  f.integer("expand", c.expand, "Inner width over d_model.", {.min = 1});
  f.integer("d_conv", c.d_conv, "Width of the causal convolution.", {.min = 1});
  f.boolean("conv_bias", c.conv_bias, "Bias in the convolution.");
  f.choice("conv_activation", c.conv_activation, {"silu", "none"}, "After the convolution.");
  f.boolean("bias", c.bias, "Biases in the projections.");
  f.boolean("d_has_hdim", c.d_has_hdim, "D per channel instead of per head.");
  f.choice("out_norm", c.out_norm, {"gated_rms", "none"},
           "Norm with the gate in front of the output projection; none: the gate alone.");
  f.boolean("norm_before_gate", c.norm_before_gate, "Normalise before gating instead of after.");
  f.number("norm_eps", c.norm_eps, "Added to the out-norm's mean square.", {.min = 0.0});
  f.numbers("dt_limit", c.dt_limit, "Limits [min, max] of dt; []: none.", {.min = 0.0});
  f.number("dt_min", c.dt_min, "Initialisation: smallest dt.", {.min = 0.0});
  f.number("dt_max", c.dt_max, "Initialisation: largest dt.", {.min = 0.0});
  f.number("dt_init_floor", c.dt_init_floor, "Initialisation: dt is raised to this.", {.min = 0.0});
  f.numbers("a_init_range", c.a_init_range, "Initialisation: -A is drawn from [min, max].",
            {.min = 0.0});
  f.optional_integer(
      "chunk", c.chunk,
      "Chunk length that released configs state. It is kept and written back; results do "
      "not depend on it, the kernels choose their own.",
      {.min = 1});
}

struct Mamba2::Cache : MixerCache {
  at::Tensor conv;   // (b, conv_dim, d_conv - 1)
  at::Tensor state;  // (b, heads, headdim, d_state)
};

Mamba2::Mamba2(const Mamba2Config& config, const MixerContext& context)
    : config_(config),
      backend_(context.backend),
      d_model_(context.d_model),
      d_inner_(config.expand * context.d_model) {
  if (d_inner_ % config.headdim != 0) {
    fail_config(context, "headdim",
                text(config.headdim) + " must divide expand * d_model (" + text(config.expand) +
                    " * " + text(d_model_) + ")");
  }
  heads_ = d_inner_ / config.headdim;
  if (heads_ % config.ngroups != 0) {
    fail_config(context, "ngroups",
                text(config.ngroups) + " must divide the " + text(heads_) +
                    " heads (expand * d_model / headdim)");
  }
  const auto check_range = [&](const char* key, const std::vector<double>& range, bool may_lack) {
    if (range.empty() && may_lack) return;
    if (range.size() != 2 || range[0] > range[1]) {
      fail_config(context, key, "expected [min, max] with min <= max");
    }
  };
  check_range("dt_limit", config.dt_limit, true);
  check_range("a_init_range", config.a_init_range, false);
  check_range("dt_max", {config.dt_min, config.dt_max}, false);
  conv_dim_ = d_inner_ + 2 * config.ngroups * config.d_state;

  const at::TensorOptions& options = context.options;
  const at::TensorOptions precise =
      options.dtype(compute_type(c10::typeMetaToScalarType(options.dtype())));
  in_proj_ = add_module("in_proj", std::make_shared<Linear>(d_model_, d_inner_ + conv_dim_ + heads_,
                                                            config.bias, options));
  conv1d_ =
      add_module("conv1d", std::make_shared<CausalConv>(conv_dim_, config.d_conv, config.conv_bias,
                                                        config.conv_activation, backend_, options));
  dt_bias_ = add_parameter("dt_bias", {heads_}, precise, {.decay = false});
  a_log_ = add_parameter("A_log", {heads_}, precise, {.decay = false});
  d_ = add_parameter("D", {config.d_has_hdim ? d_inner_ : heads_}, precise, {.decay = false});
  if (config.out_norm != "none") {
    norm_weight_ = add_parameter("norm.weight", {d_inner_}, options, {.decay = false});
  }
  out_proj_ =
      add_module("out_proj", std::make_shared<Linear>(d_inner_, d_model_, config.bias, options));
}

at::Tensor Mamba2::run(const at::Tensor& hidden, const Segments& segments, Cache* cache) const {
  // One split into views, whose gradient is one concatenation.
  const auto parts = in_proj_->forward(hidden).split_with_sizes({d_inner_, conv_dim_, heads_}, -1);
  const at::Tensor& z = parts[0];   // (b, l, d_inner)
  const at::Tensor& dt = parts[2];  // (b, l, h)
  const at::Tensor conv = cache ? conv1d_->step(parts[1], cache->conv)
                                : conv1d_->forward(parts[1], segments);  // (b, l, conv_dim)
  at::Tensor y = scan(conv, dt, z, segments, cache).flatten(2);          // (b, l, d_inner)
  if (norm_weight_) {
    ops::GatedRmsNormArgs args;
    args.x = y;
    args.z = z;
    args.weight = norm_weight_;
    args.eps = config_.norm_eps;
    args.group_size = d_inner_ / config_.ngroups;
    args.norm_before_gate = config_.norm_before_gate;
    y = gated_rms_norm(backend_, args);
  }
  return out_proj_->forward(y);
}

at::Tensor Mamba2::scan(const at::Tensor& conv, const at::Tensor& dt, const at::Tensor& z,
                        const Segments& segments, Cache* cache) const {
  const int64_t groups = config_.ngroups, n = config_.d_state, p = config_.headdim;
  const auto parts = conv.split_with_sizes({d_inner_, groups * n, groups * n}, -1);
  // What the sequence op and the step op have in common.
  const auto fill = [&](auto& args) {
    args.x = parts[0].unflatten(-1, {heads_, p});  // (b, l, h, p)
    args.dt = dt;
    args.A = -a_log_.exp();
    args.B = parts[1].unflatten(-1, {groups, n});  // (b, l, g, n)
    args.C = parts[2].unflatten(-1, {groups, n});
    args.D = config_.d_has_hdim ? d_.view({heads_, p}) : d_;
    if (!norm_weight_) args.z = z.unflatten(-1, {heads_, p});
    args.dt_bias = dt_bias_;
    args.dt_softplus = true;
    if (!config_.dt_limit.empty()) {
      args.dt_min = config_.dt_limit[0];
      args.dt_max = config_.dt_limit[1];
    }
  };
  if (cache && conv.size(1) <= kMostStepTokens) {
    ops::SsdStepArgs args;
    args.state = cache->state;
    fill(args);
    return ssd_step(backend_, args);
  }
  ops::SsdArgs args;
  fill(args);
  args.seq_idx = segments.seq_idx;
  args.cu_seqlens = segments.cu_seqlens;
  args.return_last_state = cache != nullptr;
  if (cache) args.initial_state = cache->state;
  const auto [y, last] = ssd(backend_, args);
  if (cache) cache->state = last;
  return y;
}

at::Tensor Mamba2::forward(const at::Tensor& hidden, const Segments& segments) const {
  const at::Tensor out = run(hidden, segments, nullptr);
  // The ops give zeros at padding, which only a bias lifts.
  return config_.bias ? zero_padding(out, segments) : out;
}

std::unique_ptr<MixerCache> Mamba2::make_cache(int64_t b) const {
  auto cache = std::make_unique<Cache>();
  cache->conv = conv1d_->make_state(b);
  cache->state = at::zeros({b, heads_, config_.headdim, config_.d_state},
                           a_log_.options().requires_grad(false));
  return cache;
}

at::Tensor Mamba2::step(const at::Tensor& hidden, MixerCache& cache) const {
  const at::NoGradGuard no_grad;
  return run(hidden, {}, &dynamic_cast<Cache&>(cache));
}

std::vector<std::string> Mamba2::ops_used() const {
  std::vector<std::string> ops = {"causal_conv1d", "ssd"};
  if (norm_weight_) ops.push_back("gated_rms_norm");
  return ops;
}

MixerFacts Mamba2::facts(int64_t, int64_t kv_bytes, int64_t state_bytes) const {
  const double d = static_cast<double>(d_model_), inner = static_cast<double>(d_inner_);
  const double n = static_cast<double>(config_.d_state);
  const double in_rows = static_cast<double>(d_inner_ + conv_dim_ + heads_);
  MixerFacts facts;
  facts.state_bytes_per_sequence =
      d_inner_ * config_.d_state * state_bytes + conv_dim_ * (config_.d_conv - 1) * kv_bytes;
  facts.forward_flops_per_token = 2 * d * in_rows + 7 * inner * n + 2 * inner * d;
  return facts;
}

}  // namespace aspis::nn
