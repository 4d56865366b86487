#pragma once
// A run's folder: config.json (resolved), run.json (versions and hash), metrics.jsonl,
// checkpoints/, summary.json. A folder that holds another run is never written into.

#include <filesystem>
#include <fstream>
#include <string>

#include "config/json.h"

namespace aspis::train {

class RunFolder {
 public:
  // Claims `path` for a run with this resolved config. With resume it must hold a run whose config
  // differs only in keys that do not change the training (log, eval, checkpoint, train.device,
  // train.max_seconds); without, it must be absent or empty. Throws MisuseError or ConfigError that
  // says what was found.
  RunFolder(std::filesystem::path path, const std::string& resolved_config, bool resume);

  const std::filesystem::path& path() const { return path_; }

  // Writes config.json and run.json: library versions, the config's hash, the git commit when the
  // working directory is a repository.
  void write_description(const std::string& resolved_config, const config::Json& facts) const;

  // Appends one line to metrics.jsonl and flushes it. Numbers that are not finite become strings.
  void append_metrics(config::Json line);

  // Drops the metrics of steps after `step`, so that a resumed run writes each step once.
  void rewind_metrics(int64_t step);

  void write_summary(const config::Json& summary) const;

 private:
  std::filesystem::path path_;
  std::ofstream metrics_;
};

// 64-bit FNV-1a of a text, as 16 hex digits: names a config in logs and checkpoints.
std::string text_hash(const std::string& text);

}  // namespace aspis::train
