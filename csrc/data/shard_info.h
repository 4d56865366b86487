#pragma once
// PREFIX.json beside PREFIX_train and PREFIX_validation: what the shards are and how they were
// made.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"

namespace aspis::data {

struct SplitReport {
  int64_t documents = 0;
  int64_t tokens = 0;  // end-of-document ids included
  int64_t bytes = 0;
  int64_t longest_tokens = 0;
  std::string longest_file;
};

struct ShardInfo {
  std::string tokenizer;
  int64_t vocab_size = 0;
  int64_t end_of_document = 0;
  double validation_share = 0.0;  // asked for, of the bytes
  int64_t seed = 0;
  int64_t files = 0;            // found, empty ones included
  int64_t empty_files = 0;      // skipped
  int64_t duplicate_files = 0;  // with the content of another one; kept, on its side of the split
  SplitReport train;
  SplitReport validation;
  std::vector<std::string> validation_files;
};

void fields(config::Fields& f, SplitReport& c);
void fields(config::Fields& f, ShardInfo& c);

// The report for people, several lines.
std::string report_text(const ShardInfo& info, const std::string& prefix);

void write_shard_info(const std::string& prefix, const ShardInfo& info);

// The description of a shard by the shard's own PREFIX (PREFIX_train, PREFIX_validation, or PREFIX
// itself), or nothing when there is none (a shard made by another program). Throws ConfigError or
// DataError when it is damaged.
std::optional<ShardInfo> read_shard_info(const std::string& shard_prefix);

}  // namespace aspis::data
