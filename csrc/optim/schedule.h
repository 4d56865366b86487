#pragma once
// The learning rate as a pure function of the step: nothing to save, nothing to resume.
//
// With n = step + 1 (the update being made, counted from 1), N total steps, W warm-up steps,
// m = min_lr_ratio:
//   n <= W     n / W
//   constant   1
//   cosine     m + (1 - m) (1 + cos(pi r)) / 2    r = (n - W) / (N - W)
//   linear     m + (1 - m) (1 - r)                r = (n - W) / (N - W)
//   wsd        1 until step S = N - D, then m + (1 - m) (1 - r), r = (n - S) / D,
//              D = decay_share N rounded to a whole number of steps, at least 1
// So the last warm-up step has factor 1, the last step of the run has factor m, and steps past N
// keep m.

#include <cstdint>

#include "optim/optim_config.h"

namespace aspis::optim {

// The factor on the peak rate for the update with index `step` (from 0) of `total_steps`.
double lr_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps);

// Throws ConfigError, naming the keys, when the phases do not fit into total_steps. Call it before
// the first step.
void check_schedule(const ScheduleConfig& schedule, int64_t total_steps);

}  // namespace aspis::optim
