#pragma once
// The `data` section of a run config.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/fields.h"

namespace aspis::data {

// One training shard: PREFIX of PREFIX.bin and PREFIX.idx, and its share of the rows.
struct ShardSource {
  std::string path;
  double weight = 1.0;
};

struct DataConfig {
  std::vector<ShardSource> train;
  std::string validation;  // PREFIX, or "" for none
  int64_t seq_len = 512;
  std::string order = "packed";  // or "megatron"
  bool reset_state_at_document = true;
  std::optional<int64_t> end_of_document;  // null: from the shard's description
};

void fields(config::Fields& f, ShardSource& c);
void fields(config::Fields& f, DataConfig& c);

}  // namespace aspis::data
