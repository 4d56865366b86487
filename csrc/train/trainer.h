#pragma once
// The training loop: data -> loss -> gradients -> update, metrics, validation, checkpoints, resume.
//
// Laws, tested: a run that is killed and resumed gives the bits of an uninterrupted one; N
// micro-batches of one row equal one micro-batch of N rows up to rounding, since the loss of a step
// is the sum over all its targets divided once by their number, over micro-batches and ranks alike.

#include <filesystem>
#include <string>

#include "train/run_config.h"

namespace aspis::train {

struct RunOptions {
  std::filesystem::path folder;
  bool resume = false;  // go on from the newest complete checkpoint
};

// Runs to the end: writes metrics.jsonl, checkpoints and summary.json. Throws NonFiniteError when a
// loss or gradient is not finite, StoppedError after SIGINT or SIGTERM (the step was finished and
// saved), and MisuseError, ConfigError or DataError before anything is written when the request
// cannot be met.
void train(const RunConfig& run, const RunOptions& options);

}  // namespace aspis::train
