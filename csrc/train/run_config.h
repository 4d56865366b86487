#pragma once
// A whole run in one JSON file: the sections of the rooms, and those of the loop itself.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"
#include "data/data_config.h"
#include "models/model_config.h"
#include "optim/optim_config.h"

namespace aspis::train {

struct TrainConfig {
  int64_t steps = 1000;               // optimiser steps
  int64_t batch = 8;                  // rows per micro-batch and process
  int64_t accumulation = 1;           // micro-batches per step
  std::optional<double> max_seconds;  // fewer steps where `steps` would take longer
  int64_t seed_init = 1;
  int64_t seed_data = 1;
  std::string device = "auto";  // "auto" | "cpu" | "cuda"
};

struct EvalConfig {
  int64_t every = 0;                  // steps between validations, 0 = only at the end
  int64_t max_tokens = 262144;        // from the start of the validation shard
  std::vector<double> markov_orders;  // byte Markov models to compare with at the end
};

struct CheckpointConfig {
  int64_t every = 0;  // steps between checkpoints, 0 = only at the end
  int64_t keep = 2;   // newest complete ones that stay
};

struct LogConfig {
  int64_t every = 10;  // steps per line
};

struct RunConfig {
  models::ModelConfig model;
  data::DataConfig data;
  optim::OptimConfig optim;
  optim::ScheduleConfig schedule;
  TrainConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LogConfig log;
};

void fields(config::Fields& f, TrainConfig& c);
void fields(config::Fields& f, EvalConfig& c);
void fields(config::Fields& f, CheckpointConfig& c);
void fields(config::Fields& f, LogConfig& c);
void fields(config::Fields& f, RunConfig& c);

// Reads FILE with the --set assignments applied. Throws ConfigError or DataError.
RunConfig read_run_config(const std::filesystem::path& file,
                          const std::vector<std::string>& assignments);

// Every key with its value, as text.
std::string resolved_text(const RunConfig& config);

// Paths of the keys whose values differ between two resolved configs: "optim.lr: 0.001 -> 0.002".
std::vector<std::string> differences(const std::string& before, const std::string& after);

}  // namespace aspis::train
