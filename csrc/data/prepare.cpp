#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <tuple>

#include "core/error.h"
#include "data/content_hash.h"
#include "data/glob.h"
#include "data/indexed_dataset.h"
#include "data/mapped_file.h"
#include "text/tokenizer.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

struct SourceFile {
  std::string path;
  int64_t bytes = 0;
  uint64_t hash = 0;
  bool validation = false;
};

// Equal hash and size: the same content. (A collision would only keep two files together.)
using Content = std::pair<uint64_t, int64_t>;

std::string_view view(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

void check_options(const PrepareOptions& options) {
  if (!(options.validation_share >= 0.0 && options.validation_share < 1.0)) {
    std::ostringstream share;
    share << options.validation_share;
    throw ConfigError("validation share " + share.str() + ": must be at least 0 and below 1");
  }
  if (options.prefix.empty() || options.prefix.back() == '/') {
    throw ConfigError("output prefix \"" + options.prefix +
                      "\": must end in a name, for example data/stdlib");
  }
  if (options.globs.empty() && options.files.empty()) {
    throw ConfigError("no input files named", "for example --glob \"texts/**/*.txt\"");
  }
}

std::vector<std::string> outputs(const std::string& prefix) {
  const std::string train = prefix + "_train", validation = prefix + "_validation";
  return {prefix + ".json", train + ".bin", train + ".idx", validation + ".bin",
          validation + ".idx"};
}

void check_outputs(const PrepareOptions& options) {
  std::error_code error;
  for (const std::string& file : outputs(options.prefix)) {
    if (!fs::exists(file, error)) continue;
    if (fs::is_directory(file, error)) throw DataError(file + ": is a folder");
    if (!options.force) {
      throw DataError(file + ": exists already", "choose another prefix, or --force to replace it");
    }
  }
  const fs::path folder = fs::path(options.prefix).parent_path();
  if (folder.empty()) return;
  fs::create_directories(folder, error);
  if (error) throw DataError(folder.string() + ": cannot be made: " + error.message());
}

// All matches, sorted, each path once.
std::vector<std::string> find_files(const PrepareOptions& options) {
  std::set<std::string> paths;
  const auto add = [&](const std::string& path) {
    paths.insert(fs::path(path).lexically_normal().string());
  };
  for (const std::string& pattern : options.globs) {
    for (const std::string& path : glob_files(pattern)) add(path);
  }
  for (const std::string& path : options.files) add(path);
  return {paths.begin(), paths.end()};
}

class Progress {
 public:
  Progress(const PrepareOptions& options, int64_t files) : call_(options.progress) {
    state_.files = files;
  }
  void start_writing(int64_t files) {
    state_.writing = true;
    state_.files = files;
    state_.files_done = state_.bytes_done = 0;
  }
  void done(int64_t bytes) {
    ++state_.files_done;
    state_.bytes_done += bytes;
    if (call_) call_(state_);
  }

 private:
  std::function<void(const PrepareProgress&)> call_;
  PrepareProgress state_;
};

// Moves whole groups of equal content to validation.
void split(std::vector<SourceFile>& files, const PrepareOptions& options) {
  if (options.validation_share == 0.0) return;
  struct Group {
    uint64_t order;
    Content content;
    int64_t bytes;
  };
  std::map<Content, int64_t> sizes;
  int64_t total = 0;
  for (const SourceFile& file : files) {
    sizes[{file.hash, file.bytes}] += file.bytes;
    total += file.bytes;
  }
  if (sizes.size() < 2) {
    throw DataError("only one document: nothing can be held back for validation",
                    "add files of other content, or set the validation share to 0");
  }
  std::vector<Group> groups;
  for (const auto& [content, bytes] : sizes) {
    const uint64_t order = mix64(content.first ^ mix64(static_cast<uint64_t>(options.seed)));
    groups.push_back({order, content, bytes});
  }
  std::sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
    return std::tie(a.order, a.content) < std::tie(b.order, b.content);
  });
  // A group that alone is far larger than the share would turn the split around: it stays in
  // training. When that leaves nothing, the smallest group is the best that can be done.
  const double wanted = options.validation_share * static_cast<double>(total);
  int64_t taken = 0;
  std::set<Content> chosen;
  for (const Group& group : groups) {
    if (static_cast<double>(taken) >= wanted || chosen.size() + 1 == groups.size()) break;
    if (static_cast<double>(taken + group.bytes) > std::max(2.0 * wanted, wanted + 1.0)) continue;
    chosen.insert(group.content);
    taken += group.bytes;
  }
  if (chosen.empty()) {
    chosen.insert(
        std::min_element(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
          return a.bytes < b.bytes;
        })->content);
  }
  for (SourceFile& file : files) file.validation = chosen.count({file.hash, file.bytes}) > 0;
}

// Reads, hashes and counts; empty files are left out.
std::vector<SourceFile> survey(const std::vector<std::string>& paths, Progress& progress,
                               ShardInfo& info) {
  std::vector<SourceFile> files;
  std::set<Content> seen;
  for (const std::string& path : paths) {
    const MappedFile bytes(path);
    const auto size = static_cast<int64_t>(bytes.size());
    progress.done(size);
    if (size == 0) {
      ++info.empty_files;
      continue;
    }
    files.push_back({path, size, content_hash(view(bytes)), false});
    if (!seen.insert({files.back().hash, size}).second) ++info.duplicate_files;
  }
  info.files = static_cast<int64_t>(paths.size());
  if (files.empty()) {
    throw DataError(std::to_string(paths.size()) + (paths.size() == 1 ? " file" : " files") +
                    " found, all empty: nothing to prepare");
  }
  return files;
}

void write_shards(const std::vector<SourceFile>& files, const text::Tokenizer& tokenizer,
                  const PrepareOptions& options, Progress& progress, ShardInfo& info) {
  const TokenType type = token_type_for_vocabulary(tokenizer.vocab_size());
  IndexedWriter train(options.prefix + "_train", type);
  std::unique_ptr<IndexedWriter> validation;
  if (options.validation_share > 0.0) {
    validation = std::make_unique<IndexedWriter>(options.prefix + "_validation", type);
  }
  std::vector<int64_t> ids;
  for (const SourceFile& file : files) {
    const MappedFile bytes(file.path);
    if (static_cast<int64_t>(bytes.size()) != file.bytes ||
        content_hash(view(bytes)) != file.hash) {
      throw DataError(file.path + ": changed while it was being read");
    }
    ids.clear();
    tokenizer.encode(view(bytes), ids);
    ids.push_back(tokenizer.end_of_document());
    IndexedWriter& writer = file.validation ? *validation : train;
    writer.add_sequence(ids);
    writer.end_document();
    SplitReport& report = file.validation ? info.validation : info.train;
    if (file.validation) info.validation_files.push_back(file.path);
    const auto count = static_cast<int64_t>(ids.size());
    ++report.documents;
    report.tokens += count;
    report.bytes += file.bytes;
    if (count > report.longest_tokens) {
      report.longest_tokens = count;
      report.longest_file = file.path;
    }
    progress.done(file.bytes);
  }
  // The description is written last: it never describes shards that are not there.
  std::error_code error;
  fs::remove(options.prefix + ".json", error);
  train.finish();
  if (validation) {
    validation->finish();
  } else {
    fs::remove(bin_file(options.prefix + "_validation"), error);
    fs::remove(idx_file(options.prefix + "_validation"), error);
  }
}

}  // namespace

ShardInfo prepare(const PrepareOptions& options) {
  check_options(options);
  const auto tokenizer = text::make_tokenizer(options.tokenizer);
  const std::vector<std::string> paths = find_files(options);
  check_outputs(options);
  ShardInfo info;
  info.tokenizer = tokenizer->name();
  info.vocab_size = tokenizer->vocab_size();
  info.end_of_document = tokenizer->end_of_document();
  info.validation_share = options.validation_share;
  info.seed = options.seed;
  Progress progress(options, static_cast<int64_t>(paths.size()));
  std::vector<SourceFile> files = survey(paths, progress, info);
  split(files, options);
  progress.start_writing(static_cast<int64_t>(files.size()));
  write_shards(files, *tokenizer, options, progress, info);
  write_shard_info(options.prefix, info);
  return info;
}

std::vector<std::string> read_file_list(const std::string& file) {
  std::istringstream lines{std::string(view(MappedFile(file)))};
  std::vector<std::string> paths;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) paths.push_back(line);
  }
  if (paths.empty()) throw DataError(file + ": names no file");
  return paths;
}

}  // namespace aspis::data
