#include "optim/optim_config.h"

namespace aspis::optim {

void fields(config::Fields& f, OptimConfig& c) {
  f.number("lr", c.lr, "Peak learning rate.", {.min = 0.0});
  f.numbers("betas", c.betas, "Decay rates of the two moments: exactly two numbers below 1.",
            {.min = 0.0, .max = 1.0});
  if (f.reading()) {
    if (c.betas.size() != 2) {
      f.fail("betas", "expected two numbers, got " + std::to_string(c.betas.size()));
    }
    for (const double beta : c.betas) {
      if (beta >= 1.0) f.fail("betas", "expected numbers below 1: at 1 nothing is ever learnt");
    }
  }
  f.number("eps", c.eps, "Added to the root of the second moment.", {.min = 0.0});
  f.number("weight_decay", c.weight_decay,
           "Decoupled weight decay; never applied to norms, biases, A_log, D and dt_bias.",
           {.min = 0.0});
  f.optional_number("clip_norm", c.clip_norm,
                    "Largest global L2 norm of the gradients; null: they are not clipped.",
                    {.min = 0.0});
  if (f.reading() && c.clip_norm && *c.clip_norm == 0.0) {
    f.fail("clip_norm", "expected a number above 0, or null for no clipping: 0 stops all learning");
  }
}

void fields(config::Fields& f, ScheduleConfig& c) {
  f.choice("type", c.type, {"cosine", "linear", "wsd", "constant"},
           "Course of the learning rate after the warm-up.");
  f.integer("warmup_steps", c.warmup_steps, "Steps in which the rate rises linearly to its peak.",
            {.min = 0});
  f.number("min_lr_ratio", c.min_lr_ratio,
           "Learning rate of the last step as a share of the peak (not used by constant).",
           {.min = 0.0, .max = 1.0});
  f.number("decay_share", c.decay_share,
           "wsd only: share of all steps, at the end, in which the rate falls linearly.",
           {.min = 0.0, .max = 1.0});
}

}  // namespace aspis::optim
