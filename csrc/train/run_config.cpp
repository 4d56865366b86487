#include "train/run_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace aspis::train {

using config::Fields;
using config::Json;

void fields(Fields& f, TrainConfig& c) {
  f.integer("steps", c.steps, "Optimiser steps.", {.min = 1});
  f.integer("batch", c.batch, "Rows per micro-batch and process.", {.min = 1});
  f.integer("accumulation", c.accumulation, "Micro-batches per step.", {.min = 1});
  f.optional_number(
      "max_seconds", c.max_seconds,
      "Time for all steps. The first steps are measured, and where `steps` would take "
      "longer the run gets fewer, with the schedule fitted to them; the start-up lines "
      "say so.",
      {.min = 1.0});
  f.integer("seed_init", c.seed_init, "Seed of the initial parameters.", {.min = 0});
  f.integer("seed_data", c.seed_data, "Seed of the order of the training data.", {.min = 0});
  f.choice("device", c.device, {"auto", "cpu", "cuda"},
           "Where to train. `auto` takes a GPU when every op of the model has a kernel there.");
}

void fields(Fields& f, EvalConfig& c) {
  f.integer("every", c.every, "Steps between validations; 0 validates at the end only.",
            {.min = 0});
  f.integer("max_tokens", c.max_tokens, "Tokens from the start of the validation shard.",
            {.min = 1});
  f.numbers("markov_orders", c.markov_orders,
            "Orders of byte Markov models, counted on the training shards, that the end of the run "
            "compares with.",
            {.min = 0, .max = 3});
  for (const double order : c.markov_orders) {
    if (order != std::floor(order)) f.fail("markov_orders", "expected whole numbers 0 to 3");
  }
}

void fields(Fields& f, CheckpointConfig& c) {
  f.integer("every", c.every, "Steps between checkpoints; 0 saves at the end only.", {.min = 0});
  f.integer("keep", c.keep, "Newest complete checkpoints that stay.", {.min = 1});
}

void fields(Fields& f, LogConfig& c) {
  f.integer("every", c.every, "Steps per line of metrics.", {.min = 1});
}

void fields(Fields& f, RunConfig& c) {
  if (f.reading()) {
    Json model;
    f.require("model");
    f.raw("model", model, "");
    c.model = models::resolve_model_config(model, f.file(), "model");
  } else {
    f.object("model", c.model, "The model: an object, or the path of a file in configs/models.");
  }
  f.require("data");
  f.object("data", c.data, "Shards and how rows are cut from them.");
  f.object("optim", c.optim, "AdamW.");
  f.object("schedule", c.schedule, "Learning rate over the steps.");
  f.object("train", c.train, "The loop.");
  f.object("eval", c.eval, "Validation.");
  f.object("checkpoint", c.checkpoint, "Saving.");
  f.object("log", c.log, "Metrics.");
}

RunConfig read_run_config(const std::filesystem::path& file,
                          const std::vector<std::string>& assignments) {
  Json json = config::parse_json_file(file);
  // A model given as a path is read first, so that --set model.d_model=... changes a key of it.
  const bool model_changes =
      std::any_of(assignments.begin(), assignments.end(),
                  [](const std::string& text) { return text.rfind("model.", 0) == 0; });
  if (model_changes && json.is_object() && json.contains("model") && json["model"].is_string()) {
    Json model;
    models::write_model_config(models::load_model_config(json["model"].get<std::string>()), model);
    json["model"] = std::move(model);
  }
  for (const std::string& assignment : assignments) config::apply_assignment(json, assignment);
  RunConfig run;
  config::read(json, file.string(), run);
  return run;
}

std::string resolved_text(const RunConfig& run) {
  Json json;
  config::write(run, json);
  return config::to_text(json);
}

std::vector<std::string> differences(const std::string& before, const std::string& after) {
  const Json a = Json::parse(before).flatten(), b = Json::parse(after).flatten();
  std::vector<std::string> out;
  const auto shown = [](const Json& object, const std::string& key) {
    return object.contains(key) ? object[key].dump() : std::string("absent");
  };
  const auto dotted = [](std::string pointer) {
    for (char& c : pointer) c = c == '/' ? '.' : c;
    return pointer.substr(1);
  };
  for (const auto& [key, value] : a.items()) {
    if (!b.contains(key) || b[key] != value) {
      out.push_back(dotted(key) + ": " + value.dump() + " -> " + shown(b, key));
    }
  }
  for (const auto& [key, value] : b.items()) {
    if (!a.contains(key)) out.push_back(dotted(key) + ": absent -> " + value.dump());
  }
  return out;
}

}  // namespace aspis::train
