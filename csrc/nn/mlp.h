#pragma once
// The position-wise layer:
//
//   out = W_down act(W_up x)                      gelu, gelu_tanh, relu2 (relu squared), silu
//   out = W_down (silu(W_gate x) * (W_up x))      swiglu
//
// Parameters: up_proj (ffn, d_model), gate_proj (ffn, d_model; swiglu only), down_proj (d_model,
// ffn), each with .weight and, if asked for, .bias.

#include "nn/linear.h"
#include "nn/mixer_registry.h"

namespace aspis::nn {

struct MlpConfig {
  double ratio = 4.0;
  std::optional<int64_t> ffn_hidden;
  std::string act = "gelu";
  bool bias = false;
};
void fields(config::Fields& f, MlpConfig& c);

class Mlp : public Mixer {
 public:
  Mlp(const MlpConfig& config, const MixerContext& context);

  at::Tensor forward(const at::Tensor& hidden, const Segments& segments) const override;
  std::unique_ptr<MixerCache> make_cache(int64_t b) const override;
  at::Tensor step(const at::Tensor& hidden, MixerCache& cache) const override;
  std::vector<std::string> ops_used() const override;
  MixerFacts facts(int64_t seq_len, int64_t kv_bytes, int64_t state_bytes) const override;

  const MlpConfig& config() const { return config_; }
  int64_t ffn_hidden() const { return ffn_hidden_; }

 private:
  at::Tensor apply(const at::Tensor& hidden) const;

  MlpConfig config_;
  int64_t d_model_;
  int64_t ffn_hidden_;
  std::shared_ptr<Linear> up_proj_;
  std::shared_ptr<Linear> gate_proj_;  // swiglu only
  std::shared_ptr<Linear> down_proj_;
};

}  // namespace aspis::nn
