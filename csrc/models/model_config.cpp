#include "models/model_config.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "core/error.h"
#include "models/layer_allocation.h"

namespace aspis::models {

using config::Fields;
using config::Json;

namespace {

std::string child(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// Slots from whichever of the two forms was given.
std::vector<PatternSlot> given_pattern(const Fields& f, const Json& json, const ModelConfig& c) {
  const bool ratios = c.layer_count || c.attention_ratio || c.mlp_ratio;
  if (!json.is_null()) {
    if (ratios) {
      f.fail("layer_pattern",
             "given together with layers or a ratio: only one of the two can count");
    }
    return parse_pattern(json, f.file() + ": " + child(f.path(), "layer_pattern"));
  }
  if (!ratios) {
    f.fail("layer_pattern",
           "missing: give a pattern, or layers with attention_ratio and mlp_ratio");
  }
  if (!c.layer_count) f.fail("layers", "missing: the ratios are shares of this number of layers");
  std::vector<PatternSlot> slots;
  try {
    for (const char letter : allocate_layers(*c.layer_count, c.attention_ratio.value_or(0.0),
                                             c.mlp_ratio.value_or(0.0))) {
      slots.push_back({letter, ""});
    }
  } catch (const std::invalid_argument& error) {
    f.fail("layers", error.what());
  }
  return slots;
}

void read_blocks(const Fields& f, const Json& json, ModelConfig& c) {
  if (!json.is_object()) f.fail("blocks", "expected an object, got " + json.dump());
  const std::string path = child(f.path(), "blocks");
  for (const auto& [key, settings] : json.items()) {
    const nn::MixerKind* kind = key.size() == 1 ? nn::find_mixer_kind(key[0]) : nullptr;
    if (!kind) {
      throw ConfigError(f.file() + ": " + path + "." + key + ": no kind of layer has this letter",
                        "allowed letters: " + allowed_letters());
    }
    std::shared_ptr<nn::BlockConfig> block = kind->make_config();
    block->read(settings, f.file(), path + "." + key);
    c.blocks[key[0]] = block;
  }
}

void resolve_layers(const Fields& f, const std::vector<PatternSlot>& slots, ModelConfig& c) {
  const std::string opening = f.file() + ": ";
  for (size_t i = 0; i < slots.size(); ++i) {
    const char letter = slots[i].letter;
    auto& shared = c.blocks[letter];
    if (!shared) shared = nn::find_mixer_kind(letter)->make_config();
    LayerSlot layer{letter, shared, opening + child(f.path(), "blocks." + std::string(1, letter))};
    if (!slots[i].overrides.empty()) {
      const std::string path = child(f.path(), "layer_pattern[" + std::to_string(i) + "]");
      std::shared_ptr<nn::BlockConfig> own = shared->clone();
      own->read(Json::parse(slots[i].overrides), f.file(), path);
      layer.block = own;
      layer.where = opening + path;
    }
    c.layers.push_back(layer);
  }
}

}  // namespace

std::string ModelConfig::letters() const {
  std::string out;
  for (const LayerSlot& layer : layers) out += layer.letter;
  return out;
}

nn::OpsBackend ModelConfig::backend() const {
  return ops == "reference" ? nn::OpsBackend::kReference : nn::OpsBackend::kKernels;
}

void fields(Fields& f, ModelConfig& c) {
  f.require("d_model");
  f.integer("d_model", c.d_model, "Width of the residual stream; must be given.", {.min = 1});
  f.require("vocab_size");
  f.integer("vocab_size", c.vocab_size, "Rows of the embedding; must be given.", {.min = 1});

  Json pattern, blocks = Json::object();
  if (!c.pattern.empty()) write_pattern(c.pattern, pattern);
  for (const auto& [letter, block] : c.blocks) block->write(blocks[std::string(1, letter)]);
  f.raw("layer_pattern", pattern,
        "Letters, one per layer, or an array of letters and objects {\"type\": letter, settings}; "
        "null "
        "with `layers`.");
  f.optional_integer("layers", c.layer_count, "Number of layers to allocate by the two ratios.",
                     {.min = 1});
  f.optional_number("attention_ratio", c.attention_ratio, "Share of attention layers; null: 0.",
                    {.min = 0.0, .max = 1.0});
  f.optional_number("mlp_ratio", c.mlp_ratio, "Share of MLP layers; null: 0.",
                    {.min = 0.0, .max = 1.0});
  f.choice("pos", c.pos, {"none"},
           "Position embedding added to the tokens; rotary positions are a setting of attention.");
  f.object("norm", c.norm, "The norm in front of every layer and of the head.");
  f.boolean("tie_embeddings", c.tie_embeddings, "The head is the embedding.");
  f.choice("init", c.init, {"study", "megatron", "mamba_ssm"}, "How parameters are drawn.");
  f.choice("ops", c.ops, {"kernels", "reference"},
           "reference: slow and obvious implementations, on any device.");
  f.raw("blocks", blocks, "Settings by letter: {\"M\": {...}, \"*\": {...}}.");

  if (!f.reading()) return;
  c.blocks.clear();
  c.layers.clear();
  c.pattern.clear();
  const std::vector<PatternSlot> slots = given_pattern(f, pattern, c);
  if (!pattern.is_null()) c.pattern = slots;
  read_blocks(f, blocks, c);
  resolve_layers(f, slots, c);
}

ModelConfig read_model_config(const Json& json, const std::string& file, const std::string& path) {
  ModelConfig config;
  config::read(json, file, config, path);
  return config;
}

ModelConfig parse_model_config(const std::string& text, const std::string& file) {
  return read_model_config(config::parse_json_text(text, file), file);
}

ModelConfig load_model_config(const std::string& file) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path("configs") / "models";
  for (const fs::path& place : {fs::path(file), folder / file, folder / (file + ".json")}) {
    if (fs::is_regular_file(place)) {
      return read_model_config(config::parse_json_file(place), place.string());
    }
  }
  throw DataError(file + ": no such model config, neither here nor in " + folder.string(),
                  "paths are relative to the working directory");
}

ModelConfig resolve_model_config(const Json& value, const std::string& file,
                                 const std::string& path) {
  if (value.is_object()) return read_model_config(value, file, path);
  if (value.is_string()) return load_model_config(value.get<std::string>());
  throw ConfigError(file + ": " + path +
                    ": expected the name of a model config or an object, got " + value.dump());
}

void write_model_config(const ModelConfig& config, Json& out) {
  config::write(config, out);
}

}  // namespace aspis::models
