#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "core/error.h"

namespace aspis::optim {

namespace {

// Steps of the wsd decay.
int64_t decay_steps(const ScheduleConfig& schedule, int64_t total_steps) {
  const auto rounded = std::llround(schedule.decay_share * static_cast<double>(total_steps));
  return std::max<int64_t>(1, rounded);
}

// How much of the way from `first` to `last` is done at n, in [0, 1].
double progress(int64_t n, int64_t first, int64_t last) {
  if (n >= last) return 1.0;
  return std::max(0.0, static_cast<double>(n - first) / static_cast<double>(last - first));
}

}  // namespace

double lr_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps) {
  const int64_t n = step + 1;
  const int64_t warmup = schedule.warmup_steps;
  if (n <= warmup) return static_cast<double>(n) / static_cast<double>(warmup);
  if (schedule.type == "constant") return 1.0;
  const double low = schedule.min_lr_ratio;
  if (schedule.type == "cosine") {
    const double r = progress(n, warmup, total_steps);
    return low + (1.0 - low) * 0.5 * (1.0 + std::cos(std::numbers::pi * r));
  }
  if (schedule.type == "linear") {
    return low + (1.0 - low) * (1.0 - progress(n, warmup, total_steps));
  }
  if (schedule.type == "wsd") {
    const int64_t start = total_steps - decay_steps(schedule, total_steps);
    return low + (1.0 - low) * (1.0 - progress(n, start, total_steps));
  }
  throw ConfigError("schedule.type: unknown schedule \"" + schedule.type + "\"",
                    "allowed are cosine, linear, wsd, constant");
}

void check_schedule(const ScheduleConfig& schedule, int64_t total_steps) {
  const auto steps = std::to_string(total_steps);
  if (schedule.warmup_steps > 0 && schedule.warmup_steps >= total_steps) {
    throw ConfigError("schedule.warmup_steps is " + std::to_string(schedule.warmup_steps) +
                          ", but the run has train.steps = " + steps +
                          ": the full learning rate would never be used",
                      "shorten the warm-up or lengthen the run");
  }
  if (schedule.type != "wsd") return;
  const int64_t decay = decay_steps(schedule, total_steps);
  if (schedule.warmup_steps + decay > total_steps) {
    throw ConfigError("schedule.warmup_steps (" + std::to_string(schedule.warmup_steps) +
                          ") and the decay of schedule.decay_share (" + std::to_string(decay) +
                          " steps) are more than train.steps = " + steps,
                      "lower schedule.warmup_steps or schedule.decay_share");
  }
}

}  // namespace aspis::optim
