#pragma once
// Checkpoints of a run:
//   RUN/checkpoints/step_00000100/
//     model.safetensors  optimizer.safetensors  state.json  config.json
//
// A checkpoint is written into a temporary folder, flushed to disk and renamed, so that a folder
// named step_XXXXXXXX is complete or absent, whatever happens to the process. One process writes to
// a run at a time. All errors are DataError.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "config/json.h"

namespace aspis::checkpoint {

// RUN/checkpoints/step_XXXXXXXX
std::filesystem::path checkpoint_folder(const std::filesystem::path& run, int64_t step);

// Saves and returns the folder. `state` is whatever the loop needs to go on (position in the data,
// random generators, counters), `config` the resolved run config. A checkpoint of the same step is
// replaced in one move. After that all but the newest `keep` checkpoints (0: all are kept) are
// deleted; the one just saved never is, nor a folder that is not a complete checkpoint.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, int64_t step,
                                      const NamedTensors& model, const NamedTensors& optimizer,
                                      const config::Json& state, const config::Json& config,
                                      int64_t keep);

// Empty when `folder` is a complete checkpoint, else the sentence that says what is wrong: a file
// missing, JSON or tensor file damaged. Values are not read.
std::string checkpoint_fault(const std::filesystem::path& folder);

struct LatestCheckpoint {
  std::optional<std::filesystem::path> folder;  // newest complete one; nullopt: there is none
  int64_t step = 0;
  std::vector<std::string> skipped;  // one sentence for each newer folder that was passed over
};
LatestCheckpoint latest_checkpoint(const std::filesystem::path& run);

// The folder to take a model from: `path` itself when it holds model.safetensors and config.json,
// else the newest complete checkpoint of the run `path` (skipped ones are logged as warnings).
// Throws DataError that says what was looked for.
std::filesystem::path model_folder(const std::filesystem::path& path);

// state.json and config.json of a checkpoint folder. Include nlohmann/json.hpp where they are used.
config::Json read_state(const std::filesystem::path& folder);
config::Json read_config(const std::filesystem::path& folder);

// optimizer.safetensors, mapped.
NamedTensors read_optimizer_tensors(const std::filesystem::path& folder);

// Copies model.safetensors of `folder` into `targets` (a model's parameters by name, any device).
// Strict both ways: missing and unexpected names, wrong shapes and wrong dtypes are one DataError
// that lists them; then no target has changed.
void load_model_tensors(const std::filesystem::path& folder, const NamedTensors& targets);

// The same from any safetensors file.
void load_tensors(const std::filesystem::path& file, const NamedTensors& targets);

}  // namespace aspis::checkpoint
