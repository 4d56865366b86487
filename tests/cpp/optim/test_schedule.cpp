#include <cmath>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "core/error.h"
#include "optim/optim_config.h"
#include "optim/schedule.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::config::Json;
using aspis::optim::check_schedule;
using aspis::optim::lr_factor;
using aspis::optim::OptimConfig;
using aspis::optim::ScheduleConfig;
using aspis::test::message_of;
using Catch::Matchers::Contains;

namespace {

ScheduleConfig schedule(const std::string& type, int64_t warmup, double ratio, double share = 0.2) {
  ScheduleConfig s;
  s.type = type;
  s.warmup_steps = warmup;
  s.min_lr_ratio = ratio;
  s.decay_share = share;
  return s;
}

template <typename T>
T read_text(const std::string& text, const std::string& path) {
  T config;
  aspis::config::read(aspis::config::parse_json_text(text, "a.json"), "a.json", config, path);
  return config;
}

}  // namespace

TEST_CASE("schedule: the warm-up rises linearly and ends at the full rate") {
  for (const char* type : {"cosine", "linear", "wsd", "constant"}) {
    const auto s = schedule(type, 4, 0.5);
    CHECK(lr_factor(s, 0, 20) == 0.25);
    CHECK(lr_factor(s, 1, 20) == 0.5);
    CHECK(lr_factor(s, 2, 20) == 0.75);
    CHECK(lr_factor(s, 3, 20) == 1.0);
  }
}

TEST_CASE("schedule: cosine passes through its exact points") {
  const auto s = schedule("cosine", 4, 0.25);
  CHECK(lr_factor(s, 11, 20) == 0.25 + 0.75 * 0.5);  // half way
  CHECK(lr_factor(s, 19, 20) == 0.25);               // the last step
  CHECK(lr_factor(s, 500, 20) == 0.25);              // past the end
  // The first step after the warm-up: r = 1/16.
  const double pi = std::acos(-1.0);
  CHECK(lr_factor(s, 4, 20) == 0.25 + 0.75 * 0.5 * (1.0 + std::cos(pi / 16.0)));
  CHECK(lr_factor(schedule("cosine", 0, 0.0), 9, 10) == 0.0);
}

TEST_CASE("schedule: linear passes through its exact points") {
  const auto s = schedule("linear", 4, 0.5);
  CHECK(lr_factor(s, 7, 20) == 0.5 + 0.5 * 0.75);
  CHECK(lr_factor(s, 11, 20) == 0.75);
  CHECK(lr_factor(s, 19, 20) == 0.5);
  CHECK(lr_factor(s, 20, 20) == 0.5);
}

TEST_CASE("schedule: wsd is flat, then falls linearly") {
  const auto s = schedule("wsd", 4, 0.5, 0.2);  // decay over the last 4 of 20
  for (int64_t step = 4; step < 16; ++step) CHECK(lr_factor(s, step, 20) == 1.0);
  CHECK(lr_factor(s, 16, 20) == 0.5 + 0.5 * 0.75);
  CHECK(lr_factor(s, 17, 20) == 0.75);
  CHECK(lr_factor(s, 19, 20) == 0.5);
  CHECK(lr_factor(s, 30, 20) == 0.5);
  // A share too small for a step decays in the last one.
  const auto brief = schedule("wsd", 0, 0.0, 0.0);
  CHECK(lr_factor(brief, 18, 20) == 1.0);
  CHECK(lr_factor(brief, 19, 20) == 0.0);
}

TEST_CASE("schedule: constant stays, and one step runs at the last step's rate") {
  CHECK(lr_factor(schedule("constant", 0, 0.1), 0, 10) == 1.0);
  CHECK(lr_factor(schedule("constant", 2, 0.1), 9, 10) == 1.0);
  CHECK(lr_factor(schedule("cosine", 0, 0.5), 0, 1) == 0.5);
}

TEST_CASE("schedule: phases that do not fit are refused with the keys") {
  CHECK_NOTHROW(check_schedule(schedule("cosine", 9, 0.1), 10));
  CHECK_NOTHROW(check_schedule(schedule("wsd", 8, 0.1, 0.2), 10));
  CHECK_THAT(message_of([] { check_schedule(schedule("cosine", 10, 0.1), 10); }),
             Contains("schedule.warmup_steps is 10") && Contains("train.steps = 10"));
  CHECK_THAT(message_of([] { check_schedule(schedule("wsd", 9, 0.1, 0.2), 10); }),
             Contains("schedule.decay_share (2 steps)"));
  CHECK_THAT(message_of([] { lr_factor(schedule("step", 0, 0.1), 3, 10); }),
             Contains("unknown schedule \"step\""));
}

TEST_CASE("optim config: reads, writes back and refuses") {
  const auto optim = read_text<OptimConfig>(
      R"({"lr": 1e-3, "betas": [0.8, 0.99], "clip_norm": null, "weight_decay": 0})", "optim");
  CHECK(optim.lr == 1e-3);
  CHECK(optim.betas == std::vector<double>{0.8, 0.99});
  CHECK(optim.eps == 1e-8);
  CHECK(optim.weight_decay == 0.0);
  CHECK_FALSE(optim.clip_norm.has_value());
  Json once, twice;
  aspis::config::write(optim, once);
  OptimConfig again;
  aspis::config::read(once, "b.json", again);
  aspis::config::write(again, twice);
  CHECK(once == twice);
  CHECK(read_text<OptimConfig>("{}", "optim").clip_norm == 1.0);

  const auto refused = [](const char* text) {
    return message_of([&] { read_text<OptimConfig>(text, "optim"); });
  };
  CHECK_THAT(refused(R"({"betas": [0.9]})"), Contains("optim.betas: expected two numbers, got 1"));
  CHECK_THAT(refused(R"({"betas": [0.9, 1.0]})"),
             Contains("optim.betas: expected numbers below 1"));
  CHECK_THAT(refused(R"({"clip_norm": 0})"),
             Contains("optim.clip_norm: expected a number above 0"));
  CHECK_THAT(refused(R"({"lr": -1})"), Contains("optim.lr"));
  CHECK_THAT(refused(R"({"weight_decya": 0.1})"), Contains("did you mean weight_decay?"));
  CHECK_THAT(message_of([] { read_text<ScheduleConfig>(R"({"type": "step"})", "schedule"); }),
             Contains("schedule.type") && Contains("\"wsd\""));
}
