#pragma once
// Mamba-1: a state space layer with a decay per channel, state and token.
//
//   [x | z] = W_in u
//   x = act(conv(x))                                             op causal_conv1d
//   [dt | B | C] = W_x x
//   y = scan(x, softplus(W_dt dt + b_dt), -exp(A_log), B, C) + D x       op selective_scan
//   out = W_out (y * silu(z))
//
// d_inner = expand * d_model.
//
// Parameters: in_proj.weight (2 d_inner, d_model), rows x, z; conv1d.weight (d_inner, d_conv),
// conv1d.bias; x_proj.weight (dt_rank + 2 d_state, d_inner), rows dt, B, C; dt_proj.weight
// (d_inner, dt_rank), dt_proj.bias (d_inner); A_log (d_inner, d_state); D (d_inner);
// out_proj.weight (d_model, d_inner); in_proj.bias and out_proj.bias with `bias`. A_log, D and
// dt_proj.bias are at least float32 whatever the other parameters' dtype.
//
// Cache: the conv's last d_conv - 1 inputs and the state (b, d_inner, d_state) in float32.

#include "nn/causal_conv.h"
#include "nn/linear.h"
#include "nn/mixer_registry.h"

namespace aspis::nn {

struct Mamba1Config {
  int64_t d_state = 16;
  int64_t expand = 2;
  int64_t d_conv = 4;
  std::optional<int64_t> dt_rank;  // ceil(d_model / 16)
  bool conv_bias = true;
  std::string conv_activation = "silu";
  bool bias = false;
  // Initialisation only.
  double dt_min = 1e-3;
  double dt_max = 0.1;
  double dt_init_floor = 1e-4;
  double dt_scale = 1.0;
};
void fields(config::Fields& f, Mamba1Config& c);

class Mamba1 : public Mixer {
 public:
  Mamba1(const Mamba1Config& config, const MixerContext& context);

  at::Tensor forward(const at::Tensor& hidden, const Segments& segments) const override;
  std::unique_ptr<MixerCache> make_cache(int64_t b) const override;
  at::Tensor step(const at::Tensor& hidden, MixerCache& cache) const override;
  std::vector<std::string> ops_used() const override;
  // The conv's window counts with kv_bytes an element (it has the activations' dtype). FLOPs: the
  // projections at 2 per weight and 7 per state and token, as Megatron counts Mamba-2.
  MixerFacts facts(int64_t seq_len, int64_t kv_bytes, int64_t state_bytes) const override;

  const Mamba1Config& config() const { return config_; }
  int64_t d_inner() const { return d_inner_; }
  int64_t dt_rank() const { return dt_rank_; }

 private:
  struct Cache;
  at::Tensor run(const at::Tensor& hidden, const Segments& segments, Cache* cache) const;
  // x after the convolution and z, both (b, l, d_inner) -> (b, l, d_inner)
  at::Tensor scan(const at::Tensor& x, const at::Tensor& z, const Segments& segments,
                  Cache* cache) const;

  Mamba1Config config_;
  OpsBackend backend_;
  int64_t d_model_, d_inner_, dt_rank_;
  std::shared_ptr<Linear> in_proj_, x_proj_, out_proj_;
  std::shared_ptr<CausalConv> conv1d_;
  at::Tensor dt_weight_;  // (d_inner, dt_rank)
  at::Tensor dt_bias_;    // (d_inner)
  at::Tensor a_log_;      // (d_inner, d_state)
  at::Tensor d_;          // (d_inner)
};

}  // namespace aspis::nn
