#pragma once
// Markov models of token ids, the yardstick beside a neural model: order k predicts from the last k
// tokens, each order interpolated with the one below,
//
//   p_k(c | context) = (count(context, c) + a p_{k-1}(c | shorter context)) / (total(context) + a)
//
// down to p_{-1} = 1 / vocabulary. Counts are of predicted tokens only: a document's first token is
// context, never counted. Contexts do not reach over document borders or row starts, where fewer
// tokens stand before, and the lower order is taken.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/batch.h"
#include "data/indexed_dataset.h"

namespace aspis::eval {

class MarkovModel {
 public:
  // Ids are 0 .. vocab_size - 1. Contexts are packed into 64 bits: the order must be 0 .. 6 for
  // bytes, less for larger vocabularies; ConfigError otherwise. `a` > 0: the weight of the lower
  // order in counts; 10 was the best of 0.3, 1, 3 and 10 on 10 MB of Python sources for every
  // order.
  MarkovModel(int64_t order, int64_t vocab_size, double a = 10.0);

  // Counts one document, or every document of a shard. Throws DataError for ids outside.
  void count(std::span<const int64_t> document);
  void count(const data::IndexedDataset& set);

  // The probability of `next` after `context` (its newest token last), by the model of order
  // `order` <= order(), all of which are in the same tables.
  double probability(std::span<const int64_t> context, int64_t next, int64_t order) const;

  // A scorer (bits_per_byte.h) by the model of order `order`: nats (b, l) double, 0 without target.
  at::Tensor losses(const data::Batch& batch, int64_t order) const;

  int64_t order() const { return order_; }
  int64_t entries() const;  // different (context, token) pairs, over all orders

 private:
  // Open addressing, linear probing; key 0 marks a free slot.
  class Counts {
   public:
    Counts();
    void add(uint64_t key);
    uint64_t get(uint64_t key) const;
    int64_t size() const { return used_; }

   private:
    size_t slot(uint64_t key) const;
    void grow();

    std::vector<uint64_t> keys_;
    std::vector<uint64_t> values_;
    int64_t used_ = 0;
  };

  uint64_t packed(std::span<const int64_t> context) const;

  int64_t order_;
  int64_t vocab_size_;
  int64_t bits_;  // of an id plus 1
  double a_;
  std::vector<Counts> pairs_;   // per order: of (context, token)
  std::vector<Counts> totals_;  // per order: of the context
};

}  // namespace aspis::eval
