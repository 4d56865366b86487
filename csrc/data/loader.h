#pragma once
// Token shards -> batches, in an order that a seed fixes and that can be resumed exactly.
//
//   Loader loader(config, {.rows = 8, .seed = 1, .vocab_size = 264});
//   Batch batch = loader.next();
//   config::Json here = loader.position();   // into the checkpoint
//   other.restore(here);                     // `other` goes on with the batch after `batch`
//
// Order "packed": in each epoch the documents, shuffled by (seed, epoch), lie one after the other;
// row i has the inputs stream[i L .. i L + L - 1], so that every token but a document's first is
// predicted exactly once per epoch. The last row of an epoch may end in padding. Order "megatron":
// the samples of Megatron's GPTDataset (sample_order.h), built for `samples` rows.
//
// Several shards are blended row by row by their weights. The global order of rows does not depend
// on the number of ranks: of each rows x world consecutive rows, rank r takes the r-th `rows`.

#include <cstdint>
#include <memory>
#include <string>

#include "config/json.h"
#include "data/batch.h"
#include "data/data_config.h"

namespace aspis::data {

struct LoaderOptions {
  int64_t rows = 1;  // of a batch on this rank
  uint64_t seed = 0;
  int64_t vocab_size = 0;  // of the model: larger ids in a shard are refused when it is opened
  int64_t rank = 0;
  int64_t world = 1;
  // Rows of the whole training on all ranks (steps x accumulation x rows x world). Order "megatron"
  // needs it, order "packed" does not look at it.
  int64_t samples = 0;
};

class Loader {
 public:
  // Opens and checks every training shard. Throws ConfigError (path named from `data.`) or
  // DataError: no shard, missing or damaged files, ids outside the vocabulary, seq_len longer than
  // the data.
  Loader(const DataConfig& config, const LoaderOptions& options);
  ~Loader();
  Loader(Loader&&) noexcept;
  Loader& operator=(Loader&&) noexcept;

  // The next batch of this rank, (rows, seq_len). Never ends under order "packed"; under
  // "megatron" DataError after the last sample.
  Batch next();

  // The same on every rank, also readable by a run with another number of ranks.
  config::Json position() const;
  // Throws DataError when the position belongs to another order, seed, seq_len or other shards.
  void restore(const config::Json& position);

  int64_t rows_taken() const;        // by all ranks since the start of the training
  int64_t tokens_per_epoch() const;  // of all shards together
  double epochs() const;             // rows taken over rows per epoch, all shards together
  // "2 shards, 12 345 678 tokens, 24 112 rows of 512 per epoch, order packed"
  std::string describe() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Validation: the documents of `config.validation` in file order, packed in rows of seq_len like
// training rows, of which the first `max_tokens` tokens are used (0: all).
class ValidationRows {
 public:
  // Throws DataError when config.validation is empty, missing, damaged, has ids outside the
  // vocabulary or fewer than two tokens.
  ValidationRows(const DataConfig& config, int64_t vocab_size, int64_t max_tokens = 0);
  ~ValidationRows();
  ValidationRows(ValidationRows&&) noexcept;
  ValidationRows& operator=(ValidationRows&&) noexcept;

  int64_t rows() const;
  int64_t tokens() const;
  // Rows first .. first + count - 1, cut at rows(): (at most count, seq_len).
  Batch batch(int64_t first, int64_t count) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace aspis::data
