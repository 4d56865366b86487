#include "checkpoint/run_checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/durable_file.h"
#include "core/error.h"
#include "core/log.h"

namespace aspis::checkpoint {

namespace fs = std::filesystem;
using config::Json;

namespace {

constexpr const char* kModel = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kConfig = "config.json";
constexpr const char* kFolder = "checkpoints";
constexpr const char* kPrefix = "step_";
constexpr const char* kUnfinished = ".unfinished_";  // being written, or being deleted

// The step that a folder is named after; nullopt for other names.
std::optional<int64_t> step_of(const std::string& name) {
  const std::string prefix = kPrefix;
  const std::string digits = name.substr(std::min(name.size(), prefix.size()));
  if (name.rfind(prefix, 0) != 0 || digits.size() < 8 || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(digits);
}

struct Candidate {
  fs::path folder;
  int64_t step;
};

// All folders named like checkpoints, newest first.
std::vector<Candidate> candidates(const fs::path& run) {
  std::vector<Candidate> out;
  std::error_code error;
  for (fs::directory_iterator it(run / kFolder, error), end; !error && it != end;
       it.increment(error)) {
    const auto step = step_of(it->path().filename().string());
    if (step) out.push_back({it->path(), *step});
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw DataError((run / kFolder).string() + ": cannot be listed: " + error.message());
  }
  std::sort(out.begin(), out.end(), [](auto& a, auto& b) { return a.step > b.step; });
  return out;
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw DataError(folder.string() + ": cannot be created: " + error.message());
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) throw DataError(folder.string() + ": cannot be deleted: " + error.message());
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) {
    throw DataError(from.string() + ": cannot be renamed to " + to.string() + ": " +
                    error.message());
  }
}

// Deletes a checkpoint so that a half-deleted one never carries a checkpoint's name.
void remove_checkpoint(const fs::path& folder) {
  const fs::path doomed = folder.parent_path() / (kUnfinished + folder.filename().string());
  remove_folder(doomed);
  rename_folder(folder, doomed);
  remove_folder(doomed);
}

// What earlier processes of this run were writing or deleting when they ended.
void remove_unfinished(const fs::path& checkpoints) {
  std::vector<fs::path> found;
  for (const auto& item : fs::directory_iterator(checkpoints)) {
    if (item.path().filename().string().rfind(kUnfinished, 0) == 0) found.push_back(item.path());
  }
  for (const fs::path& folder : found) remove_folder(folder);
}

// Gives `fresh` the name `target`. Something of that name is exchanged with it in one move, so that
// there is a checkpoint of this name at every moment; what it was is deleted afterwards.
void put_in_place(const fs::path& fresh, const fs::path& target) {
  std::error_code ignored;
  if (!fs::exists(fs::symlink_status(target, ignored))) {
    rename_folder(fresh, target);
    return;
  }
  const long result =
      ::syscall(SYS_renameat2, AT_FDCWD, fresh.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE);
  if (result == 0) {
    sync_folder(target.parent_path());
    remove_folder(fresh);
    return;
  }
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) {
    throw DataError(target.string() + ": cannot be replaced: " + std::strerror(errno));
  }
  // A file system without the exchange: the old one keeps its data under another name until the new
  // one is in place.
  const fs::path old = target.parent_path() / (kUnfinished + std::string("old"));
  remove_folder(old);
  rename_folder(target, old);
  rename_folder(fresh, target);
  sync_folder(target.parent_path());
  remove_folder(old);
}

void remove_old(const fs::path& run, const fs::path& saved, int64_t keep) {
  if (keep <= 0) return;
  int64_t kept = 1;  // the one just saved
  for (const Candidate& candidate : candidates(run)) {
    if (candidate.folder == saved || !checkpoint_fault(candidate.folder).empty()) continue;
    if (kept < keep) {
      ++kept;
    } else {
      remove_checkpoint(candidate.folder);
    }
  }
}

std::string counted(size_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

}  // namespace

fs::path checkpoint_folder(const fs::path& run, int64_t step) {
  char name[40];
  std::snprintf(name, sizeof name, "%s%08lld", kPrefix, static_cast<long long>(step));
  return run / kFolder / name;
}

fs::path save_checkpoint(const fs::path& run, int64_t step, const NamedTensors& model,
                         const NamedTensors& optimizer, const Json& state, const Json& config,
                         int64_t keep) {
  TORCH_CHECK(step >= 0 && keep >= 0, "save_checkpoint: step and keep must not be negative, got ",
              step, " and ", keep);
  const fs::path target = checkpoint_folder(run, step);
  const fs::path checkpoints = target.parent_path();
  make_folder(checkpoints);
  remove_unfinished(checkpoints);
  const fs::path fresh = checkpoints / (kUnfinished + target.filename().string());
  make_folder(fresh);
  try {
    write_safetensors(fresh / kModel, model, {{"format", "pt"}});
    write_safetensors(fresh / kOptimizer, optimizer);
    write_text_durably(fresh / kState, config::to_text(state));
    write_text_durably(fresh / kConfig, config::to_text(config));
    sync_folder(fresh);
    put_in_place(fresh, target);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(fresh, ignored);
    throw;
  }
  sync_folder(checkpoints);
  remove_old(run, target, keep);
  return target;
}

std::string checkpoint_fault(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return folder.string() + ": not a folder";
  for (const char* name : {kModel, kOptimizer, kState, kConfig}) {
    if (!fs::is_regular_file(folder / name, error)) {
      return folder.string() + ": " + name + " is missing";
    }
  }
  try {
    SafetensorsFile{folder / kModel};
    SafetensorsFile{folder / kOptimizer};
    config::parse_json_file(folder / kState);
    config::parse_json_file(folder / kConfig);
  } catch (const Error& fault) {
    return fault.what();
  }
  return "";
}

LatestCheckpoint latest_checkpoint(const fs::path& run) {
  LatestCheckpoint out;
  for (const Candidate& candidate : candidates(run)) {
    const std::string fault = checkpoint_fault(candidate.folder);
    if (fault.empty()) {
      out.folder = candidate.folder;
      out.step = candidate.step;
      break;
    }
    out.skipped.push_back(fault);
  }
  return out;
}

fs::path model_folder(const fs::path& path) {
  std::error_code error;
  const auto holds = [&](const char* name) { return fs::is_regular_file(path / name, error); };
  if (holds(kModel) && holds(kConfig)) return path;
  const LatestCheckpoint latest = latest_checkpoint(path);
  for (const std::string& fault : latest.skipped) {
    log_warning("skipped a damaged checkpoint: " + fault);
  }
  if (latest.folder) return *latest.folder;
  throw DataError(path.string() + ": no model here: neither " + kModel + " with " + kConfig +
                      " nor a complete checkpoint in " + kFolder + "/" + kPrefix + "*" +
                      (fs::exists(path, error) ? "" : " (there is no such folder)"),
                  "name the folder of a run or of one checkpoint");
}

Json read_state(const fs::path& folder) {
  return config::parse_json_file(folder / kState);
}

Json read_config(const fs::path& folder) {
  return config::parse_json_file(folder / kConfig);
}

NamedTensors read_optimizer_tensors(const fs::path& folder) {
  return SafetensorsFile(folder / kOptimizer).tensors();
}

void load_model_tensors(const fs::path& folder, const NamedTensors& targets) {
  load_tensors(folder / kModel, targets);
}

void load_tensors(const fs::path& file, const NamedTensors& targets) {
  const SafetensorsFile source(file);
  std::vector<std::string> missing, unexpected, wrong;
  for (const auto& [name, target] : targets) {
    const auto found = source.entries().find(name);
    if (found == source.entries().end()) {
      missing.push_back(name);
      continue;
    }
    const SafetensorsFile::Entry& entry = found->second;
    if (target.sizes() != at::IntArrayRef(entry.shape)) {
      wrong.push_back(name + c10::str(": the model has shape ", target.sizes(), ", the file ",
                                      at::IntArrayRef(entry.shape)));
    } else if (target.scalar_type() != entry.dtype) {
      wrong.push_back(name + ": the model has dtype " +
                      safetensors_dtype(target.scalar_type(), name) + ", the file " +
                      safetensors_dtype(entry.dtype, name));
    }
  }
  for (const auto& [name, entry] : source.entries()) {
    if (!targets.contains(name)) unexpected.push_back(name);
  }
  std::string text;
  const auto list = [&](const std::vector<std::string>& names, const std::string& what) {
    if (names.empty()) return;
    text += "\n  " + counted(names.size(), "tensor") + " " + what + ":";
    for (const std::string& name : names) text += "\n    " + name;
  };
  list(missing, "of the model missing in the file");
  list(unexpected, "of the file unknown to the model");
  list(wrong, "of another shape or dtype");
  if (!text.empty()) {
    throw DataError(file.string() + ": the tensors do not fit the model:" + text,
                    "build the model from the config.json beside the file");
  }
  const at::NoGradGuard no_grad;
  const NamedTensors tensors = source.tensors();  // before any target changes
  for (const auto& [name, target] : targets) target.copy_(tensors.at(name));
}

}  // namespace aspis::checkpoint
