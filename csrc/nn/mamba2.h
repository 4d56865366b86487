#pragma once
// Mamba-2: a state space layer whose decay is one number per head and token.
//
//   [z | x | B | C | dt] = W_in u
//   [x | B | C] = act(conv([x | B | C]))                                   op causal_conv1d
//   y = ssd(x, softplus(dt + dt_bias), -exp(A_log), B, C) + D x            op ssd
//   out = W_out norm(y, z)      norm(y * silu(z)) in groups of d_inner / ngroups   op
//   gated_rms_norm
//
// d_inner = expand * d_model, heads = d_inner / headdim; head h uses group h / (heads / ngroups).
//
// Parameters: in_proj.weight (2 d_inner + 2 ngroups d_state + heads, d_model), rows z, x, B, C, dt;
// conv1d.weight (d_inner + 2 ngroups d_state, d_conv), conv1d.bias; dt_bias, A_log (heads);
// D (heads), or (d_inner) with d_has_hdim; norm.weight (d_inner) unless out_norm is "none";
// out_proj.weight (d_model, d_inner); in_proj.bias and out_proj.bias with `bias`.
// A_log, D and dt_bias are at least float32 whatever the other parameters' dtype.
//
// Cache: the conv's last d_conv - 1 inputs and the state (b, heads, headdim, d_state) in float32.

#include <optional>

#include "nn/causal_conv.h"
#include "nn/linear.h"
#include "nn/mixer_registry.h"

namespace aspis::nn {

struct Mamba2Config {
  int64_t d_state = 128;
  int64_t headdim = 64;
  int64_t ngroups = 1;
  int64_t expand = 2;
  int64_t d_conv = 4;
  bool conv_bias = true;
  std::string conv_activation = "silu";
  bool bias = false;
  bool d_has_hdim = false;
  std::string out_norm = "gated_rms";
  bool norm_before_gate = false;
  double norm_eps = 1e-5;
  std::vector<double> dt_limit;  // empty, or {min, max}
  // Initialisation only.
  double dt_min = 1e-3;
  double dt_max = 0.1;
  double dt_init_floor = 1e-4;
  std::vector<double> a_init_range = {1.0, 16.0};
  std::optional<int64_t> chunk;  // of released configs: kept, no influence on results
};
void fields(config::Fields& f, Mamba2Config& c);

class Mamba2 : public Mixer {
 public:
  Mamba2(const Mamba2Config& config, const MixerContext& context);

  at::Tensor forward(const at::Tensor& hidden, const Segments& segments) const override;
  std::unique_ptr<MixerCache> make_cache(int64_t b) const override;
  at::Tensor step(const at::Tensor& hidden, MixerCache& cache) const override;
  std::vector<std::string> ops_used() const override;
  // The conv's window counts with kv_bytes an element (it has the activations' dtype).
  MixerFacts facts(int64_t seq_len, int64_t kv_bytes, int64_t state_bytes) const override;

  const Mamba2Config& config() const { return config_; }
  int64_t d_inner() const { return d_inner_; }
  int64_t heads() const { return heads_; }
  int64_t conv_dim() const { return conv_dim_; }  // d_inner + 2 ngroups d_state

 private:
  struct Cache;
  at::Tensor run(const at::Tensor& hidden, const Segments& segments, Cache* cache) const;
  // conv (b, l, conv_dim), dt (b, l, heads), z (b, l, d_inner) -> (b, l, heads, headdim)
  at::Tensor scan(const at::Tensor& conv, const at::Tensor& dt, const at::Tensor& z,
                  const Segments& segments, Cache* cache) const;

  Mamba2Config config_;
  OpsBackend backend_;
  int64_t d_model_, d_inner_ = 0, heads_ = 0, conv_dim_ = 0;
  std::shared_ptr<Linear> in_proj_, out_proj_;
  std::shared_ptr<CausalConv> conv1d_;
  at::Tensor dt_bias_, a_log_;             // (heads)
  at::Tensor d_;                           // (heads) or (d_inner)
  std::optional<at::Tensor> norm_weight_;  // (d_inner)
};

}  // namespace aspis::nn
