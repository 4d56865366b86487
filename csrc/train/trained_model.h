#pragma once
// A model that a run has saved, ready for generation and evaluation.

#include <filesystem>
#include <memory>
#include <string>

#include "models/language_model.h"
#include "text/tokenizer.h"
#include "train/device.h"

namespace aspis::train {

struct TrainedModel {
  std::filesystem::path folder;  // the checkpoint that was read
  DeviceChoice device;
  std::unique_ptr<models::LanguageModel> model;
  std::unique_ptr<text::Tokenizer> tokenizer;
};

// `path`: a run folder (its newest complete checkpoint) or a checkpoint folder. `device`: "auto",
// "cpu" or "cuda". Throws DataError or ConfigError that names what is missing.
TrainedModel load_trained_model(const std::filesystem::path& path, const std::string& device);

}  // namespace aspis::train
