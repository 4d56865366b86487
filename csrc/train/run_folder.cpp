#include "train/run_folder.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "train/run_config.h"

namespace aspis::train {

namespace fs = std::filesystem;
using config::Json;

namespace {

// Keys that may change when a run goes on: they do not touch what is learned.
constexpr const char* kFree[] = {"log.", "eval.", "checkpoint.", "train.device",
                                 "train.max_seconds"};

bool is_free(const std::string& difference) {
  for (const char* prefix : kFree) {
    if (difference.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

std::string read_text(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The commit of the repository around the working directory, or "".
std::string git_commit() {
  FILE* pipe = popen("git rev-parse HEAD 2>/dev/null", "r");
  if (!pipe) return "";
  char line[64] = {};
  const bool got = std::fgets(line, sizeof(line), pipe) != nullptr;
  pclose(pipe);
  std::string commit = got ? line : "";
  while (!commit.empty() && commit.back() == '\n') commit.pop_back();
  return commit;
}

void finite_or_text(Json& value) {
  if (value.is_object() || value.is_array()) {
    for (auto& item : value) finite_or_text(item);
  } else if (value.is_number_float() && !std::isfinite(value.get<double>())) {
    const double number = value.get<double>();
    value = std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
  }
}

}  // namespace

std::string text_hash(const std::string& text) {
  uint64_t hash = 1469598103934665603ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211ULL;
  }
  char out[17];
  std::snprintf(out, sizeof(out), "%016llx", static_cast<unsigned long long>(hash));
  return out;
}

RunFolder::RunFolder(fs::path path, const std::string& resolved_config, bool resume)
    : path_(std::move(path)) {
  const fs::path config_file = path_ / "config.json";
  const bool occupied = fs::exists(path_) && !(fs::is_directory(path_) && fs::is_empty(path_));
  if (!resume) {
    if (occupied) {
      throw MisuseError(
          path_.string() + " already holds " + (fs::exists(config_file) ? "a run" : "other files"),
          "continue a run with --resume, or choose another folder with --out");
    }
  } else if (!fs::exists(config_file)) {
    throw MisuseError(path_.string() + ": no run to resume (no config.json there)",
                      "start it without --resume");
  } else {
    std::string text;
    for (const std::string& difference : differences(read_text(config_file), resolved_config)) {
      if (!is_free(difference)) text += "\n  " + difference;
    }
    if (!text.empty()) {
      throw ConfigError(
          path_.string() + ": holds a run with another config:" + text,
          "resume with the config it was started with, or start a new run with --out");
    }
  }
  std::error_code error;
  fs::create_directories(path_ / "checkpoints", error);
  if (error) throw DataError(path_.string() + ": cannot be created: " + error.message());
  metrics_.open(path_ / "metrics.jsonl", std::ios::app);
  if (!metrics_) throw DataError((path_ / "metrics.jsonl").string() + ": cannot be written");
}

void RunFolder::write_description(const std::string& resolved_config, const Json& facts) const {
  config::write_text_file(path_ / "config.json", resolved_config);
  Json run = facts;
  run["config_hash"] = text_hash(resolved_config);
  run["git_commit"] = git_commit();
  config::write_text_file(path_ / "run.json", config::to_text(run));
}

void RunFolder::append_metrics(Json line) {
  finite_or_text(line);
  metrics_ << line.dump() << '\n' << std::flush;
  if (!metrics_) {
    throw DataError((path_ / "metrics.jsonl").string() + ": cannot be written (disk full?)");
  }
}

void RunFolder::rewind_metrics(int64_t step) {
  metrics_.close();
  const fs::path file = path_ / "metrics.jsonl";
  std::istringstream lines(read_text(file));
  std::string line, kept;
  while (std::getline(lines, line)) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.value("step", int64_t{0}) <= step) kept += line + "\n";
  }
  config::write_text_file(file, kept);
  metrics_.open(file, std::ios::app);
}

void RunFolder::write_summary(const Json& summary) const {
  Json clean = summary;
  finite_or_text(clean);
  config::write_text_file(path_ / "summary.json", config::to_text(clean));
}

}  // namespace aspis::train
