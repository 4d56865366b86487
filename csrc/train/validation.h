#pragma once
// Validation of a run: bits per byte on rows that training never sees (docs/data.md has the
// definition).

#include <c10/core/Device.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/loader.h"
#include "models/language_model.h"
#include "text/tokenizer.h"
#include "train/run_config.h"

namespace aspis::train {

// Bits per byte of a model on these rows.
double bits_per_byte(const models::LanguageModel& model, c10::Device device,
                     const data::ValidationRows& rows, const text::Tokenizer& tokenizer);

class Validation {
 public:
  // Opens the validation shard. Throws DataError when it is missing or damaged.
  explicit Validation(const RunConfig& run);

  double bits_per_byte(const models::LanguageModel& model, c10::Device device) const;

  // "orderK_bpb" of each byte Markov model that the config asks for, counted on the training shards
  // and scored on the same rows.
  std::vector<std::pair<std::string, double>> markov() const;

 private:
  const RunConfig& run_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  data::ValidationRows rows_;
};

}  // namespace aspis::train
