#pragma once
// Text files -> a training and a validation shard.
//
// Each file is one document: its bytes as they are (valid UTF-8 or not) as tokens, then the
// end-of-document id. The split is made by file: files of equal content form a group, the groups
// are ordered by a hash of (seed, content), and from the front they go to validation until its
// share of the bytes is reached; so no validation document is trained on, and the split depends on
// contents and seed only, not on names or their order. Within each shard documents stand in the
// order of their paths.
//
// Writes PREFIX_train.{bin,idx}, PREFIX_validation.{bin,idx} (none when the share is 0) and
// PREFIX.json, the description (shard_info.h).

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/shard_info.h"

namespace aspis::data {

struct PrepareProgress {
  int64_t files_done = 0;
  int64_t files = 0;
  int64_t bytes_done = 0;
  bool writing =
      false;  // first all files are read and hashed, then they are read again and written
};

struct PrepareOptions {
  // Patterns (glob.h) and paths taken as they are; together at least one file.
  std::vector<std::string> globs;
  std::vector<std::string> files;
  std::string prefix;
  std::string tokenizer = "bytes";
  double validation_share = 0.05;  // of the bytes, 0 <= share < 1
  int64_t seed = 0;
  bool force = false;  // replace files of an earlier run
  std::function<void(const PrepareProgress&)> progress;
};

// Throws ConfigError for impossible options, DataError for files: no match, unreadable, all empty,
// nothing left for one side of the split, changed while being read, output that exists already.
ShardInfo prepare(const PrepareOptions& options);

// Paths in a text file, one per line; empty lines are skipped. For `files` of a long list.
std::vector<std::string> read_file_list(const std::string& file);

}  // namespace aspis::data
