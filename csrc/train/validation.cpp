#include "train/validation.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "data/indexed_dataset.h"
#include "data/shard_info.h"
#include "eval/bits_per_byte.h"
#include "eval/markov.h"
#include "text/tokenizer.h"

namespace aspis::train {
namespace {

constexpr int64_t kRowsAtOnce = 8;

std::unique_ptr<text::Tokenizer> tokenizer_of(const RunConfig& run) {
  const auto info = data::read_shard_info(run.data.validation);
  if (!info) {
    throw DataError(run.data.validation + ": has no description that names its tokenizer",
                    "bits per byte need the tokenizer: make the shard with aspis prepare, or leave "
                    "data.validation empty");
  }
  return text::make_tokenizer(info->tokenizer);
}

}  // namespace

Validation::Validation(const RunConfig& run)
    : run_(run),
      tokenizer_(tokenizer_of(run)),
      rows_(run.data, run.model.vocab_size, run.eval.max_tokens) {}

double bits_per_byte(const models::LanguageModel& model, c10::Device device,
                     const data::ValidationRows& rows, const text::Tokenizer& tokenizer) {
  const at::NoGradGuard no_grad;
  const auto scorer = [&](const data::Batch& batch) {
    nn::Segments segments;
    if (batch.seq_idx) segments.seq_idx = batch.seq_idx->to(device);
    return model.token_losses(batch.tokens.to(device), batch.targets.to(device), segments);
  };
  return eval::bits_per_byte(rows, tokenizer, kRowsAtOnce, scorer).bits_per_byte;
}

double Validation::bits_per_byte(const models::LanguageModel& model, c10::Device device) const {
  return train::bits_per_byte(model, device, rows_, *tokenizer_);
}

std::vector<std::pair<std::string, double>> Validation::markov() const {
  std::vector<std::pair<std::string, double>> out;
  if (run_.eval.markov_orders.empty()) return out;
  // The tables of the highest order hold all lower ones.
  const auto& orders = run_.eval.markov_orders;
  eval::MarkovModel markov(std::llround(*std::max_element(orders.begin(), orders.end())),
                           tokenizer_->vocab_size());
  for (const data::ShardSource& source : run_.data.train) {
    markov.count(data::IndexedDataset(source.path));
  }
  for (const double order : orders) {
    const int64_t k = std::llround(order);
    const auto scorer = [&](const data::Batch& batch) { return markov.losses(batch, k); };
    out.emplace_back("order" + std::to_string(k) + "_bpb",
                     eval::bits_per_byte(rows_, *tokenizer_, kRowsAtOnce, scorer).bits_per_byte);
  }
  return out;
}

}  // namespace aspis::train
