#include "nn/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dispatch.h"
#include "nn/positions.h"

namespace aspis::nn {

namespace {

const MixerRegistration kFull(mixer_kind<Attention, AttentionConfig>(
    '*', "attention", "Causal attention with grouped keys and values."));
const MixerRegistration kWindowed(mixer_kind<Attention, WindowAttentionConfig>(
    'w', "window_attention", "Causal attention to the last `window` tokens."));

std::string text(int64_t value) {
  return std::to_string(value);
}

const AttentionConfig& with_window(const WindowAttentionConfig& config,
                                   const MixerContext& context) {
  if (!config.window) {
    fail_config(context, "window",
                "missing: the letter w needs a number of tokens (attention without a window has "
                "the letter *)");
  }
  return config;
}

// Query i (of t) stands behind `past` keys and sees key j if 0 <= past + i - j < window.
at::Tensor causal_mask(int64_t t, int64_t past, const std::optional<int64_t>& window,
                       const at::Tensor& like) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(like.device());
  const at::Tensor distance = at::arange(past, past + t, options).unsqueeze(1) -
                              at::arange(past + t, options);  // (t, past + t)
  const at::Tensor seen = distance.ge(0);
  return window ? seen.logical_and(distance.lt(*window)) : seen;
}

}  // namespace

void fields(config::Fields& f, AttentionConfig& c) {
  f.optional_integer("heads", c.heads, "Query heads; must be given.", {.min = 1});
  f.optional_integer("kv_heads", c.kv_heads,
                     "Key and value heads, a divisor of heads; null: heads.", {.min = 1});
  f.optional_integer("head_dim", c.head_dim, "Numbers per head; null: d_model / heads.",
                     {.min = 1});
  f.number("rope_fraction", c.rope_fraction,
           "Share of each head that rotary position embedding turns; 0: no positions.",
           {.min = 0.0, .max = 1.0});
  f.number("rope_base", c.rope_base, "Base of the rotation's wave lengths.", {.min = 1.0});
  f.optional_integer("window", c.window, "Tokens a token sees, itself among them; null: all.",
                     {.min = 1});
  f.boolean("bias", c.bias, "Biases in the projections.");
}

void fields(config::Fields& f, WindowAttentionConfig& c) {
  fields(f, static_cast<AttentionConfig&>(c));
}

struct Attention::Cache : MixerCache {
  int64_t length = 0;  // tokens seen so far
  at::Tensor k, v;     // (b, kv_heads, capacity, head_dim); token i in slot i, or i % window
};

Attention::Attention(const WindowAttentionConfig& config, const MixerContext& context)
    : Attention(with_window(config, context), context) {}

Attention::Attention(const AttentionConfig& config, const MixerContext& context)
    : config_(config),
      backend_(context.backend),
      options_(context.options),
      d_model_(context.d_model) {
  if (!config.heads) {
    fail_config(context, "heads", "missing: the number of query heads has no default");
  }
  heads_ = *config.heads;
  kv_heads_ = config.kv_heads.value_or(heads_);
  if (heads_ % kv_heads_ != 0) {
    fail_config(context, "kv_heads", text(kv_heads_) + " must divide heads (" + text(heads_) + ")");
  }
  if (!config.head_dim && d_model_ % heads_ != 0) {
    fail_config(context, "heads",
                text(heads_) + " must divide d_model (" + text(d_model_) +
                    ") where head_dim does not give the size of a head");
  }
  head_dim_ = config.head_dim.value_or(d_model_ / heads_);
  const double turned = config.rope_fraction * static_cast<double>(head_dim_);
  rope_dim_ = std::llround(turned);
  if (std::abs(turned - static_cast<double>(rope_dim_)) > 1e-6 || rope_dim_ % 2 != 0) {
    fail_config(context, "rope_fraction",
                "rope_fraction * head_dim must be an even number, got " +
                    std::to_string(config.rope_fraction) + " * " + text(head_dim_));
  }
  const auto linear = [&](const char* name, int64_t in, int64_t out) {
    return add_module(name, std::make_shared<Linear>(in, out, config.bias, context.options));
  };
  q_proj_ = linear("q_proj", d_model_, heads_ * head_dim_);
  k_proj_ = linear("k_proj", d_model_, kv_heads_ * head_dim_);
  v_proj_ = linear("v_proj", d_model_, kv_heads_ * head_dim_);
  o_proj_ = linear("o_proj", heads_ * head_dim_, d_model_);
}

// x (b, l, heads, head_dim), position (r, l) with r = b or 1.
at::Tensor Attention::rotate(const at::Tensor& x, const at::Tensor& position) const {
  if (rope_dim_ == 0) return x;
  const int64_t half = rope_dim_ / 2;
  // Angles in double: a float32 product loses the angle at long contexts.
  const at::Tensor exponent =
      at::arange(half, position.options().dtype(at::kDouble)) * (-1.0 / static_cast<double>(half));
  const at::Tensor angle = position.to(at::kDouble).unsqueeze(-1) *
                           at::pow(config_.rope_base, exponent);  // (r, l, half)
  const at::ScalarType type = compute_type(x.scalar_type());
  const at::Tensor cos = angle.cos().to(type).unsqueeze(2);  // (r, l, 1, half)
  const at::Tensor sin = angle.sin().to(type).unsqueeze(2);
  const auto parts = x.split_with_sizes({half, half, head_dim_ - rope_dim_}, -1);
  const at::Tensor first = (parts[0] * cos - parts[1] * sin).to(x.scalar_type());
  const at::Tensor second = (parts[1] * cos + parts[0] * sin).to(x.scalar_type());
  return at::cat({first, second, parts[2]}, -1);
}

Attention::Heads Attention::project(const at::Tensor& hidden, const at::Tensor& position) const {
  const int64_t b = hidden.size(0), l = hidden.size(1);
  const auto split = [&](const Linear& linear, int64_t heads) {
    return linear.forward(hidden).view({b, l, heads, head_dim_});
  };
  return {rotate(split(*q_proj_, heads_), position).transpose(1, 2),
          rotate(split(*k_proj_, kv_heads_), position).transpose(1, 2),
          split(*v_proj_, kv_heads_).transpose(1, 2)};
}

// mask: true where a query sees a key, (t, s) or (b, 1, t, s). Returns (b, t, d_model).
at::Tensor Attention::attend(const Heads& heads, const std::optional<at::Tensor>& mask,
                             bool causal) const {
  const int64_t b = heads.q.size(0), t = heads.q.size(2);
  at::Tensor out;  // (b, heads, t, head_dim)
  if (heads.q.numel() == 0) {
    out = heads.q;
  } else if (backend_ == OpsBackend::kKernels) {
    out = at::scaled_dot_product_attention(heads.q, heads.k, heads.v, mask, /*dropout_p=*/0.0,
                                           causal, /*scale=*/std::nullopt,
                                           /*enable_gqa=*/kv_heads_ != heads_);
  } else {
    const at::Tensor k = heads.k.repeat_interleave(heads_ / kv_heads_, 1);
    const at::Tensor v = heads.v.repeat_interleave(heads_ / kv_heads_, 1);
    at::Tensor scores =
        at::matmul(heads.q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(head_dim_));
    const std::optional<at::Tensor> seen =
        causal ? causal_mask(t, k.size(2) - t, std::nullopt, heads.q) : mask;
    if (seen) {
      scores = scores.masked_fill(seen->logical_not(), -std::numeric_limits<double>::infinity());
    }
    out = at::matmul(at::softmax(scores, -1), v);
  }
  return o_proj_->forward(out.transpose(1, 2).reshape({b, t, heads_ * head_dim_}));
}

at::Tensor Attention::forward(const at::Tensor& hidden, const Segments& segments) const {
  check_segments("attention", hidden, segments);
  const int64_t l = hidden.size(1);
  const Positions positions = list_positions(hidden, segments);
  const Heads heads = project(hidden, positions.position);
  if (!segments.seq_idx && !segments.cu_seqlens) {
    if (!config_.window || *config_.window >= l) return attend(heads, std::nullopt, true);
    return attend(heads, causal_mask(l, 0, config_.window, hidden), false);
  }
  const at::Tensor& document = positions.document;  // (r, l)
  at::Tensor seen = document.unsqueeze(2).eq(document.unsqueeze(1));
  seen = seen.logical_and(causal_mask(l, 0, std::nullopt, hidden));  // (r, l, l)
  if (config_.window && *config_.window < l) {
    const at::Tensor& position = positions.position;
    seen = seen.logical_and((position.unsqueeze(2) - position.unsqueeze(1)).lt(*config_.window));
  }
  return zero_padding(attend(heads, seen.unsqueeze(1), false), segments);
}

std::unique_ptr<MixerCache> Attention::make_cache(int64_t b) const {
  constexpr int64_t kFirstCapacity = 64;
  auto cache = std::make_unique<Cache>();
  const int64_t capacity = config_.window.value_or(kFirstCapacity);
  cache->k = at::empty({b, kv_heads_, capacity, head_dim_}, options_);
  cache->v = at::empty({b, kv_heads_, capacity, head_dim_}, options_);
  return cache;
}

at::Tensor Attention::step(const at::Tensor& hidden, MixerCache& cache) const {
  const at::NoGradGuard no_grad;
  Cache& own = dynamic_cast<Cache&>(cache);
  TORCH_CHECK(hidden.size(0) == own.k.size(0), "attention: the cache holds b=", own.k.size(0),
              " sequences, got hidden with b=", hidden.size(0));
  const int64_t t = hidden.size(1);
  const at::Tensor position =
      at::arange(own.length, own.length + t,
                 at::TensorOptions().dtype(at::kLong).device(hidden.device()))
          .unsqueeze(0);
  const Heads heads = project(hidden, position);
  const at::Tensor out = config_.window ? step_ring(heads, own) : step_growing(heads, own);
  own.length += t;
  return out;
}

at::Tensor Attention::step_growing(const Heads& heads, Cache& cache) const {
  const int64_t t = heads.q.size(2), past = cache.length, total = past + t;
  for (at::Tensor* store : {&cache.k, &cache.v}) {
    if (total <= store->size(2)) continue;
    at::Tensor larger = at::empty(
        {store->size(0), kv_heads_, std::max(2 * store->size(2), total), head_dim_}, options_);
    larger.narrow(2, 0, past).copy_(store->narrow(2, 0, past));
    *store = larger;
  }
  cache.k.narrow(2, past, t).copy_(heads.k);
  cache.v.narrow(2, past, t).copy_(heads.v);
  const Heads seen{heads.q, cache.k.narrow(2, 0, total), cache.v.narrow(2, 0, total)};
  if (t == 1) return attend(seen, std::nullopt, false);
  if (past == 0) return attend(seen, std::nullopt, true);
  return attend(seen, causal_mask(t, past, std::nullopt, heads.q), false);
}

at::Tensor Attention::step_ring(const Heads& heads, Cache& cache) const {
  const int64_t window = *config_.window, t = heads.q.size(2), length = cache.length;
  if (t == 1) {
    // The ring then holds exactly the tokens in the window; their order does not matter.
    const int64_t filled = std::min(length + 1, window);
    cache.k.narrow(2, length % window, 1).copy_(heads.k);
    cache.v.narrow(2, length % window, 1).copy_(heads.v);
    return attend({heads.q, cache.k.narrow(2, 0, filled), cache.v.narrow(2, 0, filled)},
                  std::nullopt, false);
  }
  const auto options = at::TensorOptions().dtype(at::kLong).device(heads.q.device());
  const int64_t past = std::min(length, window - 1);
  const at::Tensor old = at::arange(length - past, length, options).remainder(window);
  const Heads seen{heads.q, at::cat({cache.k.index_select(2, old), heads.k}, 2),
                   at::cat({cache.v.index_select(2, old), heads.v}, 2)};
  const at::Tensor out = attend(seen, causal_mask(t, past, window, heads.q), false);
  const int64_t kept = std::min(t, window);
  const at::Tensor slots = at::arange(length + t - kept, length + t, options).remainder(window);
  cache.k.index_copy_(2, slots, heads.k.narrow(2, t - kept, kept));
  cache.v.index_copy_(2, slots, heads.v.narrow(2, t - kept, kept));
  return out;
}

std::vector<std::string> Attention::ops_used() const {
  return {};
}

MixerFacts Attention::facts(int64_t seq_len, int64_t kv_bytes, int64_t) const {
  const double d = static_cast<double>(d_model_), length = static_cast<double>(seq_len);
  const double q_width = static_cast<double>(heads_ * head_dim_);
  const double kv_width = static_cast<double>(kv_heads_ * head_dim_);
  // Keys seen by the mean token: half the context; with a window w, w less the missing triangle.
  double keys = length / 2;
  const int64_t token_bytes = 2 * kv_heads_ * head_dim_ * kv_bytes;
  MixerFacts facts;
  if (config_.window) {
    const double window = std::min(static_cast<double>(*config_.window), length);
    if (length > 0) keys = window - window * window / (2 * length);
    facts.state_bytes_per_sequence = token_bytes * *config_.window;
  } else {
    facts.cache_bytes_per_token = token_bytes;
  }
  facts.forward_flops_per_token = 4 * d * (q_width + kv_width) + 4 * keys * q_width;
  return facts;
}

}  // namespace aspis::nn
