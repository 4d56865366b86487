#pragma once
// The architecture of a language model, as JSON (docs/adding/config.md):
//
//   {"d_model": 512, "vocab_size": 257, "layer_pattern": "M-M*-",
//    "norm": {"type": "rms", "eps": 1e-5}, "tie_embeddings": false, "init": "study", "ops":
//    "kernels", "blocks": {"M": {"d_state": 64}, "*": {"heads": 8, "kv_heads": 2}}}
//
// Instead of layer_pattern: "layers": 24, "attention_ratio": 0.08, "mlp_ratio": 0.5
// (layer_allocation.h). A slot's settings are its kind's defaults, then blocks.<letter>, then the
// slot's own overrides.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"
#include "models/layer_pattern.h"
#include "nn/mixer_registry.h"
#include "nn/norm.h"

namespace aspis::models {

// One layer with everything that its kind can be told.
struct LayerSlot {
  char letter = 0;
  std::shared_ptr<const nn::BlockConfig> block;
  std::string where;  // opens messages about its settings: "a.json: blocks.M"
};

struct ModelConfig {
  int64_t d_model = 0;
  int64_t vocab_size = 0;  // rows of the embedding

  // The pattern as it was given: slots, or a number of layers with ratios.
  std::vector<PatternSlot> pattern;
  std::optional<int64_t> layer_count;
  std::optional<double> attention_ratio;
  std::optional<double> mlp_ratio;

  std::string pos = "none";
  nn::NormConfig norm;
  bool tie_embeddings = false;
  std::string init = "study";  // models/initialisation.h
  std::string ops = "kernels";

  // Settings by letter: of every letter in the pattern, and of those that the file mentions.
  std::map<char, std::shared_ptr<const nn::BlockConfig>> blocks;

  // What the above comes to, filled by reading: one entry per layer.
  std::vector<LayerSlot> layers;

  // The letters of all layers.
  std::string letters() const;
  nn::OpsBackend backend() const;
};

void fields(config::Fields& f, ModelConfig& c);

// Reads the config from an object. `file` and `path` open every message. Throws ConfigError.
ModelConfig read_model_config(const config::Json& json, const std::string& file,
                              const std::string& path = "");

// The same from JSON text.
ModelConfig parse_model_config(const std::string& text, const std::string& file);

// Reads a file. A name that is not there is looked for in the folder configs/models, with and
// without
// ".json" added. Throws ConfigError, or DataError naming the places where the file is not.
ModelConfig load_model_config(const std::string& file);

// The value of a key that is a file name or an object: "model" in a run config.
ModelConfig resolve_model_config(const config::Json& value, const std::string& file,
                                 const std::string& path);

// Every field; reading the result gives an equal config.
void write_model_config(const ModelConfig& config, config::Json& out);

}  // namespace aspis::models
