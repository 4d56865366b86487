#pragma once
// From the logits of one position to one token. The random number of a draw is a pure function of
// the seed and of the token's number in its completion (core/random.h), so a completion does not
// depend on what else is generated beside it, before it or in which order.

#include <cstdint>
#include <optional>
#include <vector>

#include "config/fields.h"

namespace aspis::infer {

// The filters apply in this order: temperature, top_k, top_p.
struct SamplingConfig {
  double temperature = 1.0;  // divides the logits; 0: always the most likely token
  std::optional<int64_t> top_k = std::nullopt;  // only the k most likely tokens
  double top_p = 1.0;  // only the most likely tokens that reach this probability together
  int64_t seed = 0;
};
void fields(config::Fields& f, SamplingConfig& c);

// `logits` (v). `number` counts the tokens of the completion from 0. Of equal logits the lower id
// counts as more likely. Ids from `vocab_used` on are never chosen (rows that only fill up the
// embedding). Throws NonFiniteError when a logit is NaN or none is finite.
int64_t sample_token(const std::vector<float>& logits, const SamplingConfig& config, int64_t number,
                     std::optional<int64_t> vocab_used = {});

}  // namespace aspis::infer
