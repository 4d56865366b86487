#pragma once
// Causal attention with grouped keys and values:
//
//   q, k, v = W_q x, W_k x, W_v x;   q, k rotated by position (RoPE) where rope_fraction > 0
//   out = W_o softmax(q k^T / sqrt(head_dim)) v
//
// Query head h uses key head h / (heads / kv_heads). Token i sees the tokens of its own document in
// (i - window, i]; without a window all in front of it. RoPE turns the first rope_fraction *
// head_dim numbers of each head in two halves: the pair (j, j + half) by the angle
// position * rope_base^(-j / half). Padding is seen by nobody, counts in no distance and gives zero
// output.
//
// Parameters: q_proj (heads * head_dim, d_model), k_proj and v_proj (kv_heads * head_dim, d_model),
// o_proj (d_model, heads * head_dim), each with .weight and, if asked for, .bias.
//
// Cache: keys (rotated) and values, (b, kv_heads, capacity, head_dim) each. Without a window the
// capacity doubles when it is full; with one it is a ring of `window` tokens.

#include "nn/linear.h"
#include "nn/mixer_registry.h"

namespace aspis::nn {

struct AttentionConfig {
  std::optional<int64_t> heads;     // no default: refused when absent
  std::optional<int64_t> kv_heads;  // heads
  std::optional<int64_t> head_dim;  // d_model / heads
  double rope_fraction = 0.0;
  double rope_base = 10000.0;
  std::optional<int64_t> window;
  bool bias = false;
};
void fields(config::Fields& f, AttentionConfig& c);

// The letter w: the same settings, but a window must be given.
struct WindowAttentionConfig : AttentionConfig {};
void fields(config::Fields& f, WindowAttentionConfig& c);

class Attention : public Mixer {
 public:
  Attention(const AttentionConfig& config, const MixerContext& context);
  Attention(const WindowAttentionConfig& config, const MixerContext& context);

  at::Tensor forward(const at::Tensor& hidden, const Segments& segments) const override;
  std::unique_ptr<MixerCache> make_cache(int64_t b) const override;
  at::Tensor step(const at::Tensor& hidden, MixerCache& cache) const override;
  std::vector<std::string> ops_used() const override;
  // A window's ring counts as state_bytes_per_sequence, since it does not grow.
  MixerFacts facts(int64_t seq_len, int64_t kv_bytes, int64_t state_bytes) const override;

  const AttentionConfig& config() const { return config_; }
  int64_t heads() const { return heads_; }
  int64_t kv_heads() const { return kv_heads_; }
  int64_t head_dim() const { return head_dim_; }

 private:
  struct Cache;
  struct Heads {
    at::Tensor q;  // (b, heads, l, head_dim)
    at::Tensor k;  // (b, kv_heads, l, head_dim)
    at::Tensor v;  // (b, kv_heads, l, head_dim)
  };
  Heads project(const at::Tensor& hidden, const at::Tensor& position) const;
  at::Tensor rotate(const at::Tensor& x, const at::Tensor& position) const;
  at::Tensor attend(const Heads& heads, const std::optional<at::Tensor>& mask, bool causal) const;
  at::Tensor step_ring(const Heads& heads, Cache& cache) const;
  at::Tensor step_growing(const Heads& heads, Cache& cache) const;

  AttentionConfig config_;
  OpsBackend backend_;
  at::TensorOptions options_;
  int64_t d_model_;
  int64_t heads_ = 0;
  int64_t kv_heads_ = 0;
  int64_t head_dim_ = 0;
  int64_t rope_dim_ = 0;  // numbers of a head that turn
  std::shared_ptr<Linear> q_proj_, k_proj_, v_proj_, o_proj_;
};

}  // namespace aspis::nn
