#pragma once
// A whole language model: embedding, one pre-normed residual layer per symbol of the pattern, final
// norm, head.
//
//   x = embed(tokens);  for each slot: x = x + mixer(norm(x));  hidden = final_norm(x);  logits =
//   hidden W^T

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/model_config.h"
#include "nn/mixer.h"
#include "nn/module.h"

namespace aspis::models {

// One cache per layer, for b sequences that advance together.
struct ModelCache {
  int64_t b = 0;
  int64_t length = 0;  // tokens seen so far
  std::vector<std::unique_ptr<nn::MixerCache>> layers;
};

class LanguageModel : public nn::Module {
 public:
  // Parameters are uninitialised; options may name the meta device, which needs no memory. Throws
  // ConfigError naming the key when the config asks for something that cannot be built.
  LanguageModel(const ModelConfig& config, const at::TensorOptions& options);
  ~LanguageModel() override;

  // Fills every parameter by the config's initialisation preset (models/initialisation.h) from this
  // seed: same seed, same bits.
  void initialise(uint64_t seed);

  const ModelConfig& config() const;

  // tokens (b, l) int64 -> hidden (b, l, d_model) after the final norm.
  at::Tensor forward(const at::Tensor& tokens, const nn::Segments& segments) const;

  // tokens, targets (b, l) int64 (target -100: no loss) -> summed negative log likelihood (float32
  // scalar, float64 in a double model) and number of targets that count (int64 scalar). Never holds
  // the (b l, v) logits. Padding has no meaningful output: its targets must be -100.
  std::pair<at::Tensor, at::Tensor> loss(const at::Tensor& tokens, const at::Tensor& targets,
                                         const nn::Segments& segments) const;

  // The same per token, without gradient: (b, l), 0 where the target is -100.
  at::Tensor token_losses(const at::Tensor& tokens, const at::Tensor& targets,
                          const nn::Segments& segments) const;

  // hidden (..., d_model) -> logits (..., v) float32 (float64 in a double model).
  at::Tensor logits(const at::Tensor& hidden) const;

  // Generation: tokens (b, t) int64, t >= 1 -> hidden (b, t, d_model), equal to the last t rows of
  // forward over everything the cache has seen; the cache moves on. No gradients.
  ModelCache make_cache(int64_t b) const;
  at::Tensor step(const at::Tensor& tokens, ModelCache& cache) const;

  // Names of ops/op_table.h that training this model calls, each once.
  std::vector<std::string> ops_used() const;

  // Sizes and costs of one layer (nn/mixer.h); works on the meta device.
  nn::MixerFacts layer_facts(size_t layer, int64_t seq_len, int64_t kv_bytes,
                             int64_t state_bytes) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace aspis::models
