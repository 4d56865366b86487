#pragma once
// What a layer pattern says, before any settings are known: one letter per slot, one slot per
// pre-normed residual. Two forms in JSON:
//
//   "M-M*-"                                           letters only; Megatron's strings of M, *, -
//   fit
//   ["M", "-", {"type": "*", "kv_heads": 2}]          letters or objects with settings of that slot

#include <string>
#include <vector>

#include "config/json.h"

namespace aspis::models {

struct PatternSlot {
  char letter = 0;
  std::string overrides;  // JSON text of an object, empty without settings
};

// `where` opens messages ("a.json: layer_pattern"). Throws ConfigError for anything that is not a
// pattern and for letters that no kind of layer has, with the list of those that exist; letters
// that Megatron or the paper use otherwise get an explanation.
std::vector<PatternSlot> parse_pattern(const config::Json& json, const std::string& where);

// A string when no slot has settings of its own, else a list.
void write_pattern(const std::vector<PatternSlot>& slots, config::Json& out);

// "* (attention), - (mlp), M (mamba2), ...": the letters that exist.
std::string allowed_letters();

}  // namespace aspis::models
