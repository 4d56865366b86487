#include <nlohmann/json.hpp>

#include "config/fields.h"
#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::config::Fields;
using aspis::config::Json;
using aspis::test::message_of;

namespace sample {

struct Inner {
  double weight = 1.0;
};
void fields(Fields& f, Inner& c) {
  f.number("weight", c.weight, "Share.", {.min = 0.0});
}

struct Config {
  int64_t steps = 10;
  double lr = 0.5;
  bool fused = true;
  std::string order = "packed";
  std::optional<int64_t> seed;
  std::vector<Inner> parts;
  Inner inner;
};
void fields(Fields& f, Config& c) {
  f.integer("steps", c.steps, "Steps.", {.min = 1});
  f.number("lr", c.lr, "Rate.", {.min = 0.0, .max = 1.0});
  f.boolean("fused", c.fused, "One call.");
  f.choice("order", c.order, {"packed", "megatron"}, "Order of samples.");
  f.optional_integer("seed", c.seed, "Seed.");
  f.list("parts", c.parts, "Parts.");
  f.object("inner", c.inner, "Inner.");
}

}  // namespace sample

namespace {

sample::Config read_text(const std::string& text) {
  sample::Config config;
  aspis::config::read(aspis::config::parse_json_text(text, "a.json"), "a.json", config);
  return config;
}

}  // namespace

TEST_CASE("fields: reads over defaults and writes everything back") {
  const auto config =
      read_text(R"({"steps": 1e3, "parts": [{"weight": 2}, {}], "inner": {"weight": 3}})");
  CHECK(config.steps == 1000);
  CHECK(config.lr == 0.5);
  REQUIRE(config.parts.size() == 2);
  CHECK(config.parts[0].weight == 2.0);
  CHECK(config.parts[1].weight == 1.0);
  Json once, twice;
  aspis::config::write(config, once);
  CHECK(once["seed"].is_null());
  CHECK(once["inner"]["weight"] == 3.0);
  aspis::config::write(read_text(once.dump()), twice);
  CHECK(once.dump() == twice.dump());
}

TEST_CASE("fields: messages name file, path, what was read and what is allowed") {
  const auto message = [](const std::string& text) { return message_of([&] { read_text(text); }); };
  CHECK(message(R"({"stepz": 3})") == "a.json: stepz: unknown key (did you mean steps?)");
  CHECK(message(R"({"inner": {"wieght": 3}})") ==
        "a.json: inner.wieght: unknown key (did you mean weight?)");
  CHECK(message(R"({"zzzzzzzz": 3})") ==
        "a.json: zzzzzzzz: unknown key (allowed: steps, lr, fused, order, seed, parts, inner)");
  CHECK(message(R"({"steps": 1.9})") == "a.json: steps: expected an integer >= 1, got 1.9");
  CHECK(message(R"({"steps": 0})") == "a.json: steps: expected an integer >= 1, got 0");
  CHECK(message(R"({"steps": "3"})") == "a.json: steps: expected an integer >= 1, got \"3\"");
  CHECK(message(R"({"steps": 18446744073709551615})") ==
        "a.json: steps: expected an integer >= 1, got 18446744073709551615");
  CHECK(message(R"({"lr": 2})") == "a.json: lr: expected a number >= 0, <= 1, got 2");
  CHECK(message(R"({"fused": 1})") == "a.json: fused: expected true or false, got 1");
  CHECK(message(R"({"order": "random"})") ==
        "a.json: order: expected one of \"packed\", \"megatron\", got \"random\"");
  CHECK(message(R"({"parts": [{"weight": -1}]})") ==
        "a.json: parts[0].weight: expected a number >= 0, got -1");
  CHECK(message(R"({"parts": {}})") == "a.json: parts: expected an array of objects, got {}");
  CHECK(message(R"({"steps": 1, "steps": 2})") ==
        "a.json: the key \"steps\" stands twice in one object");
  CHECK(message("{\n\"steps\": 1,\n}").find("a.json: line 3: not valid JSON") == 0);
  CHECK(message("[1]") == "a.json: expected an object, got [1]");
}

TEST_CASE("fields: assignments go through the same reader") {
  Json root = aspis::config::parse_json_text("{}", "a.json");
  aspis::config::apply_assignment(root, "inner.weight=4");
  aspis::config::apply_assignment(root, "order=megatron");
  aspis::config::apply_assignment(root, "lr=3e-4");
  sample::Config config;
  aspis::config::read(root, "a.json", config);
  CHECK(config.inner.weight == 4.0);
  CHECK(config.order == "megatron");
  CHECK(config.lr == 3e-4);
  CHECK(message_of([&] { aspis::config::apply_assignment(root, "lr"); }) ==
        "--set lr: expected PATH=VALUE");
  CHECK(message_of([&] { aspis::config::apply_assignment(root, "lr.x=1"); }) ==
        "--set lr.x=1: lr is not an object");
}

TEST_CASE("fields: describe lists every key with type, default and text") {
  const auto rows = aspis::config::describe<sample::Config>("c");
  REQUIRE(rows.size() == 9);
  CHECK(rows[0].path == "c.steps");
  CHECK(rows[0].type == "integer >= 1");
  CHECK(rows[0].default_value == "10");
  CHECK(rows[6].path == "c.parts[].weight");
  CHECK(rows[8].path == "c.inner.weight");
}
