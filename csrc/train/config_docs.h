#pragma once
// docs/config.md, generated from the same list of fields that reads the files.

#include <string>

#include "train/run_config.h"

namespace aspis::train {

// The whole page. A test compares it with docs/config.md.
std::string config_documentation();

// Everything that can be checked without data or memory: builds the model on the meta device.
void check_run_config(const RunConfig& run);

}  // namespace aspis::train
