#pragma once
// What a model config comes to, without memory for its weights: parameters, cache sizes and FLOPs.
// The model is built on the meta device.

#include <cstdint>
#include <string>
#include <vector>

#include "models/model_config.h"

namespace aspis::models {

// All layers with one letter (their pre-norms counted with them), or one of the parts around the
// layers.
struct InspectionRow {
  std::string letter = "";               // "M"; empty for embedding, final norm and head
  std::string name = "";                 // "mamba2"
  int64_t count = 0;                     // layers of the kind
  int64_t parameters = 0;                // of all of them together
  double share = 0;                      // of the model's parameters, 0 to 1
  int64_t state_bytes_per_sequence = 0;  // fixed part of the cache
  int64_t cache_bytes_per_token = 0;     // part that grows with the context
  double forward_flops_per_token = 0;
};

struct InspectionOptions {
  int64_t seq_len = 4096;   // context for the FLOPs of attention
  int64_t kv_bytes = 2;     // bytes of an element of keys, values and conv windows
  int64_t state_bytes = 4;  // bytes of an element of an SSM state
};

struct Inspection {
  InspectionOptions options;
  std::string pattern;
  int64_t d_model = 0;
  int64_t vocab_size = 0;
  std::vector<InspectionRow> rows;      // embedding, kinds in order of appearance, final norm, head
  InspectionRow total;                  // sums of the rows
  double training_flops_per_token = 0;  // three times forward
  std::vector<std::string> ops;         // that training it calls
  std::string flops_formula;            // names the formula
};

// Throws ConfigError for a config that cannot be built.
Inspection inspect(const ModelConfig& config, const InspectionOptions& options = {});

// A table for people; lines end with a newline.
std::string inspection_text(const Inspection& inspection);

// The same figures: {"pattern", "parameters", "rows": [...], "state_bytes_per_sequence", ...}.
void inspection_json(const Inspection& inspection, config::Json& out);

}  // namespace aspis::models
