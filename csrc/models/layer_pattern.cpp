#include "models/layer_pattern.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "nn/mixer_registry.h"

namespace aspis::models {

using config::Json;

namespace {

// Letters that a reader of the paper or of Megatron may bring along, and what they mean there.
struct ForeignLetter {
  char letter;
  const char* meaning;
};
constexpr ForeignLetter kForeign[] = {
    {'E', "a mixture of experts in Megatron, which is not built here"},
    {'|', "the border of a pipeline segment in Megatron; patterns here say nothing of pipelines"},
    {'/', "the start of a prediction head in Megatron (multi-token prediction), not built here"},
    {'+',
     "the paper's letter for an MLP, written - here; later Megatron means a kind of attention"},
    {'G', "a gated delta net in Megatron, which is not built here"},
    {'D', "sparse attention in Megatron, which is not built here"},
    {'h', "kept for H3 layers, which are not built yet"},
    {'s', "kept for LTI kernel layers, which are not built yet"},
    {'d', "kept for discrete Mamba-2 layers, which are not built yet"},
};

void check_letter(char letter, const std::string& where) {
  if (nn::find_mixer_kind(letter)) return;
  std::string message = where + ": unknown letter '" + std::string(1, letter) + "'";
  for (const ForeignLetter& foreign : kForeign) {
    if (foreign.letter == letter) message += ": " + std::string(foreign.meaning);
  }
  throw ConfigError(message, "allowed letters: " + allowed_letters());
}

PatternSlot parse_slot(const Json& json, const std::string& where) {
  const Json* type = &json;
  if (json.is_object()) {
    if (!json.contains("type")) {
      throw ConfigError(where + ".type: missing: an object in a pattern names its letter here",
                        "allowed letters: " + allowed_letters());
    }
    type = &json["type"];
  }
  if (!type->is_string() || type->get<std::string>().size() != 1) {
    throw ConfigError(where +
                          ": expected one letter, or an object whose \"type\" is one letter, got " +
                          type->dump(),
                      "allowed letters: " + allowed_letters());
  }
  PatternSlot slot;
  slot.letter = type->get<std::string>()[0];
  check_letter(slot.letter, where);
  if (json.is_object() && json.size() > 1) {
    Json overrides = json;
    overrides.erase("type");
    slot.overrides = overrides.dump();
  }
  return slot;
}

}  // namespace

std::string allowed_letters() {
  std::string list;
  for (const nn::MixerKind* kind : nn::mixer_kinds()) {
    list += (list.empty() ? "" : ", ") + std::string(1, kind->letter) + " (" + kind->name + ")";
  }
  return list;
}

std::vector<PatternSlot> parse_pattern(const Json& json, const std::string& where) {
  std::vector<PatternSlot> slots;
  if (json.is_string()) {
    const auto letters = json.get<std::string>();
    for (size_t i = 0; i < letters.size(); ++i) {
      check_letter(letters[i], where + "[" + std::to_string(i) + "]");
      slots.push_back({letters[i], ""});
    }
  } else if (json.is_array()) {
    for (size_t i = 0; i < json.size(); ++i) {
      slots.push_back(parse_slot(json[i], where + "[" + std::to_string(i) + "]"));
    }
  } else {
    throw ConfigError(
        where + ": expected a string of letters or an array of letters and objects, got " +
            json.dump(),
        "allowed letters: " + allowed_letters());
  }
  if (slots.empty()) {
    throw ConfigError(where + ": empty: a model needs at least one layer",
                      "allowed letters: " + allowed_letters());
  }
  return slots;
}

void write_pattern(const std::vector<PatternSlot>& slots, Json& out) {
  std::string letters;
  bool plain = true;
  for (const PatternSlot& slot : slots) {
    letters += slot.letter;
    plain = plain && slot.overrides.empty();
  }
  if (plain) {
    out = letters;
    return;
  }
  out = Json::array();
  for (const PatternSlot& slot : slots) {
    const std::string type(1, slot.letter);
    if (slot.overrides.empty()) {
      out.push_back(type);
    } else {
      Json item = {{"type", type}};
      item.update(Json::parse(slot.overrides));
      out.push_back(item);
    }
  }
}

}  // namespace aspis::models
