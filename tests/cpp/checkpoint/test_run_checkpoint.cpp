#include "checkpoint/run_checkpoint.h"

#include <ATen/ATen.h>
#include <sys/wait.h>

#include <nlohmann/json.hpp>

#include "checkpoint/scratch.h"
#include "core/error.h"
#include "core/log.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::checkpoint;
using aspis::DataError;
using aspis::config::Json;
using aspis::test::message_of;
using aspis::test::read_bytes;
using aspis::test::Scratch;
using aspis::test::write_bytes;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

NamedTensors model_of(double value) {
  return {{"embedding.weight", at::full({4, 3}, value)}, {"norm_f.weight", at::full({3}, value)}};
}

NamedTensors optimizer_of(double value) {
  return {{"step", at::scalar_tensor(7, at::kLong)},
          {"exp_avg.norm_f.weight", at::full({3}, value)}};
}

fs::path save(const fs::path& run, int64_t step, int64_t keep = 0) {
  const auto value = static_cast<double>(step);
  return save_checkpoint(run, step, model_of(value), optimizer_of(value), Json{{"tokens", step}},
                         Json{{"optim", {{"lr", 0.1}}}}, keep);
}

std::vector<std::string> listing(const fs::path& run) {
  std::vector<std::string> out;
  for (const auto& item : fs::directory_iterator(run / "checkpoints")) {
    out.push_back(item.path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

double value_in(const fs::path& folder) {
  auto targets = model_of(-1.0);
  load_model_tensors(folder, targets);
  return targets.at("norm_f.weight")[0].item<double>();
}

}  // namespace

TEST_CASE("run checkpoint: everything comes back") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  const fs::path folder = save(run, 100);
  CHECK(folder == run / "checkpoints" / "step_00000100");
  CHECK(folder == checkpoint_folder(run, 100));
  CHECK(listing(run) == std::vector<std::string>{"step_00000100"});
  CHECK(checkpoint_fault(folder).empty());
  CHECK(read_state(folder) == Json{{"tokens", 100}});
  CHECK(read_config(folder) == Json{{"optim", {{"lr", 0.1}}}});
  for (const auto& [name, tensor] : optimizer_of(100.0)) {
    aspis::test::check_bitwise(name, read_optimizer_tensors(folder).at(name), tensor);
  }
  auto targets = model_of(0.0);
  for (auto& [name, tensor] : targets) tensor.set_requires_grad(true);
  load_model_tensors(folder, targets);
  for (const auto& [name, tensor] : model_of(100.0)) {
    aspis::test::check_bitwise(name, targets.at(name).detach(), tensor);
  }
  CHECK(checkpoint_folder("r", 123456789012).filename() == "step_123456789012");
}

TEST_CASE("run checkpoint: the newest complete one is found and the others named") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  CHECK_FALSE(latest_checkpoint(run).folder.has_value());
  for (const int64_t step : {9, 10, 200, 300, 400, 500}) save(run, step);
  // Damage from the top: a file missing, a file cut short, JSON cut short, an empty folder.
  fs::remove(checkpoint_folder(run, 500) / "optimizer.safetensors");
  const fs::path cut = checkpoint_folder(run, 400) / "model.safetensors";
  fs::resize_file(cut, fs::file_size(cut) - 1);
  write_bytes(checkpoint_folder(run, 300) / "state.json", "{\"tokens\": ");
  fs::create_directories(checkpoint_folder(run, 600));
  fs::create_directories(run / "checkpoints" / "step_latest");
  fs::create_directories(run / "checkpoints" / ".unfinished_step_00000700");
  write_bytes(run / "checkpoints" / "step_00000800", "a file");

  const LatestCheckpoint latest = latest_checkpoint(run);
  REQUIRE(latest.folder.has_value());
  CHECK(*latest.folder == checkpoint_folder(run, 200));
  CHECK(latest.step == 200);
  REQUIRE(latest.skipped.size() == 5);
  CHECK_THAT(latest.skipped[0], Contains("step_00000800: not a folder"));
  CHECK_THAT(latest.skipped[1], Contains("step_00000600: model.safetensors is missing"));
  CHECK_THAT(latest.skipped[2], Contains("step_00000500: optimizer.safetensors is missing"));
  CHECK_THAT(latest.skipped[3], Contains("step_00000400/model.safetensors: the tensors fill"));
  CHECK_THAT(latest.skipped[4], Contains("step_00000300/state.json"));
}

TEST_CASE("run checkpoint: the last K are kept, and damaged ones count for nothing") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  for (const int64_t step : {10, 20, 30}) save(run, step);
  save(run, 40, 3);
  CHECK(listing(run) ==
        std::vector<std::string>{"step_00000020", "step_00000030", "step_00000040"});
  // Two newer ones are damaged: they are no replacement for the good ones, and are left to look at.
  for (const int64_t step : {30, 40})
    fs::remove(checkpoint_folder(run, step) / "model.safetensors");
  save(run, 50, 2);
  CHECK(listing(run) == std::vector<std::string>{"step_00000020", "step_00000030", "step_00000040",
                                                 "step_00000050"});
  save(run, 60, 1);
  CHECK(listing(run) ==
        std::vector<std::string>{"step_00000030", "step_00000040", "step_00000060"});
  // The one just saved stays even when others have higher numbers.
  save(run, 5, 1);
  CHECK(listing(run) ==
        std::vector<std::string>{"step_00000005", "step_00000030", "step_00000040"});
}

TEST_CASE("run checkpoint: one of the same step is replaced") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  const fs::path folder = save(run, 10);
  write_bytes(folder / "model.safetensors", "damaged");
  CHECK_THAT(checkpoint_fault(folder), Contains("model.safetensors"));
  CHECK(save(run, 10, 1) == folder);
  CHECK(checkpoint_fault(folder).empty());
  CHECK(value_in(folder) == 10.0);
  CHECK(listing(run) == std::vector<std::string>{"step_00000010"});
}

TEST_CASE("run checkpoint: a save that fails leaves the others and no trace") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  save(run, 10);
  NamedTensors bad = optimizer_of(1.0);
  bad["exp_avg.x"] = at::zeros({2}, at::kComplexDouble);
  CHECK_THROWS_AS(save_checkpoint(run, 20, model_of(1.0), bad, Json(), Json(), 1), DataError);
  CHECK(listing(run) == std::vector<std::string>{"step_00000010"});
  write_bytes(scratch / "file", "");
  CHECK_THAT(message_of([&] { save(scratch / "file", 1); }), Contains("cannot be created"));
}

TEST_CASE("run checkpoint: a process killed while saving leaves a run that goes on") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  save(run, 10);
  for (int round = 0; round < 5; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int64_t step = 11;; ++step) {
        save_checkpoint(run, step,
                        {{"embedding.weight", at::Tensor(model_of(1.0).begin()->second)}}, {},
                        Json{{"tokens", step}}, Json::object(), 2);
      }
    }
    ::usleep(static_cast<useconds_t>(20000 + 7000 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    const LatestCheckpoint latest = latest_checkpoint(run);
    REQUIRE(latest.folder.has_value());
    CHECK(latest.skipped.empty());
    CHECK(read_state(*latest.folder) == Json{{"tokens", latest.step}});
  }
  const fs::path folder = save(run, 1000000, 1);
  CHECK(listing(run) == std::vector<std::string>{"step_01000000"});
  CHECK(value_in(folder) == 1000000.0);
}

TEST_CASE("run checkpoint: a model that does not fit is refused with all names, and unchanged") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  const fs::path folder = save_checkpoint(
      run, 1,
      {{"a", at::ones({2})}, {"b", at::ones({2, 3})}, {"c", at::ones({2})}, {"d", at::ones({2})}},
      {}, Json(), Json(), 0);
  const NamedTensors targets{{"a", at::zeros({2})},
                             {"b", at::zeros({3, 2})},
                             {"c", at::zeros({2}, at::kBFloat16)},
                             {"e", at::zeros({2})},
                             {"f", at::zeros({2})}};
  CHECK_THROWS_AS(load_model_tensors(folder, targets), DataError);
  const std::string message = message_of([&] { load_model_tensors(folder, targets); });
  CHECK_THAT(message,
             Contains("step_00000001/model.safetensors: the tensors do not fit the model"));
  CHECK_THAT(message, Contains("2 tensors of the model missing in the file:\n    e\n    f"));
  CHECK_THAT(message, Contains("1 tensor of the file unknown to the model:\n    d"));
  CHECK_THAT(message, Contains("b: the model has shape [3, 2], the file [2, 3]"));
  CHECK_THAT(message, Contains("c: the model has dtype BF16, the file F32"));
  CHECK(targets.at("a").sum().item<double>() == 0.0);
}

TEST_CASE("run checkpoint: a model is found in a checkpoint, in a run, or not at all") {
  Scratch scratch;
  const fs::path run = scratch / "run";
  save(run, 10);
  save(run, 20);
  CHECK(model_folder(checkpoint_folder(run, 10)) == checkpoint_folder(run, 10));
  CHECK(model_folder(run) == checkpoint_folder(run, 20));
  CHECK_THAT(message_of([&] { model_folder(scratch / "none"); }),
             Contains("none: no model here") && Contains("there is no such folder"));

  fs::remove(checkpoint_folder(run, 20) / "config.json");
  std::vector<std::string> warnings;
  const auto former = aspis::set_log_sink(
      [&](aspis::LogLevel, const std::string& line) { warnings.push_back(line); });
  CHECK(model_folder(run) == checkpoint_folder(run, 10));
  aspis::set_log_sink(former);
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Contains("step_00000020: config.json is missing"));
}
