#pragma once
// The config sections "optim" and "schedule".

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"

namespace aspis::optim {

// AdamW. The defaults are those of the published hybrid recipes.
struct OptimConfig {
  double lr = 3e-4;                         // peak learning rate
  std::vector<double> betas = {0.9, 0.95};  // exactly two, each in [0, 1)
  double eps = 1e-8;
  double weight_decay = 0.1;              // only where a parameter allows it
  std::optional<double> clip_norm = 1.0;  // largest global L2 norm of the gradients; null: no limit
};
void fields(config::Fields& f, OptimConfig& c);

// The learning rate over the run, as a factor on OptimConfig::lr (optim/schedule.h).
struct ScheduleConfig {
  std::string type = "cosine";  // "cosine" | "linear" | "wsd" | "constant"
  int64_t warmup_steps = 0;     // linear from 0; the last of them has the full rate
  double min_lr_ratio = 0.1;    // where the decay ends; "constant" has none
  double decay_share = 0.2;     // "wsd": the share of all steps that decays
};
void fields(config::Fields& f, ScheduleConfig& c);

}  // namespace aspis::optim
