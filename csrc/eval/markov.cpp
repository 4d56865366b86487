#include "eval/markov.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"
#include "data/content_hash.h"

namespace aspis::eval {

MarkovModel::Counts::Counts() : keys_(1024, 0), values_(1024, 0) {}

size_t MarkovModel::Counts::slot(uint64_t key) const {
  const size_t mask = keys_.size() - 1;
  size_t at = data::mix64(key) & mask;
  while (keys_[at] != 0 && keys_[at] != key) at = (at + 1) & mask;
  return at;
}

void MarkovModel::Counts::add(uint64_t key) {
  const size_t at = slot(key);
  ++values_[at];
  if (keys_[at] != 0) return;
  keys_[at] = key;
  ++used_;
  if (2 * static_cast<size_t>(used_) > keys_.size()) grow();
}

uint64_t MarkovModel::Counts::get(uint64_t key) const {
  return values_[slot(key)];
}

void MarkovModel::Counts::grow() {
  std::vector<uint64_t> keys(2 * keys_.size(), 0), values(2 * keys_.size(), 0);
  std::swap(keys, keys_);
  std::swap(values, values_);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == 0) continue;
    const size_t at = slot(keys[i]);
    keys_[at] = keys[i];
    values_[at] = values[i];
  }
}

MarkovModel::MarkovModel(int64_t order, int64_t vocab_size, double a)
    : order_(order), vocab_size_(vocab_size), a_(a) {
  bits_ = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, vocab_size)));
  const int64_t highest = 63 / bits_ - 1;
  if (vocab_size < 1 || order < 0 || order > highest) {
    throw ConfigError("Markov model of order " + std::to_string(order) + " over " +
                      std::to_string(vocab_size) + " ids: the order must be 0 .. " +
                      std::to_string(highest));
  }
  if (!(a > 0.0)) throw ConfigError("Markov model: a must be larger than 0");
  pairs_.resize(static_cast<size_t>(order + 1));
  totals_.resize(static_cast<size_t>(order + 1));
}

// Ids plus 1 side by side: contexts of one order differ, and only the empty one is 0.
uint64_t MarkovModel::packed(std::span<const int64_t> context) const {
  uint64_t key = 0;
  for (const int64_t id : context) {
    if (id < 0 || id >= vocab_size_) {
      throw DataError("Markov model: id " + std::to_string(id) + " is outside 0 .. " +
                      std::to_string(vocab_size_ - 1));
    }
    key = key << bits_ | static_cast<uint64_t>(id + 1);
  }
  return key;
}

void MarkovModel::count(std::span<const int64_t> document) {
  for (size_t i = 1; i < document.size(); ++i) {
    for (size_t k = 0; k < pairs_.size() && k <= i; ++k) {
      pairs_[k].add(packed(document.subspan(i - k, k + 1)));
      // Key 0, the context of order 0, would mark a free slot.
      totals_[k].add(packed(document.subspan(i - k, k)) + (k == 0));
    }
  }
}

void MarkovModel::count(const data::IndexedDataset& set) {
  std::vector<int64_t> document;
  for (int64_t d = 0; d < set.documents(); ++d) {
    document.clear();
    for (int64_t i = set.first_sequence(d); i < set.first_sequence(d + 1); ++i) {
      const std::vector<int64_t> ids = set.read(i);
      document.insert(document.end(), ids.begin(), ids.end());
    }
    count(document);
  }
}

double MarkovModel::probability(std::span<const int64_t> context, int64_t next,
                                int64_t order) const {
  const uint64_t token = packed(std::span(&next, 1));
  double p = 1.0 / static_cast<double>(vocab_size_);
  const size_t longest = std::min(context.size(), static_cast<size_t>(std::min(order, order_)));
  for (size_t k = 0; k <= longest; ++k) {
    const uint64_t key = packed(context.last(k));
    const auto total = static_cast<double>(totals_[k].get(key + (k == 0)));
    if (total == 0.0) break;  // then longer contexts are unseen as well
    const auto count = static_cast<double>(pairs_[k].get(key << bits_ | token));
    p = (count + a_ * p) / (total + a_);
  }
  return p;
}

at::Tensor MarkovModel::losses(const data::Batch& batch, int64_t order) const {
  const at::Tensor tokens = batch.tokens.contiguous(), targets = batch.targets.contiguous();
  const int64_t b = tokens.size(0), l = tokens.size(1);
  at::Tensor losses = at::zeros({b, l}, at::kDouble);  // (b, l)
  double* loss = losses.mutable_data_ptr<double>();
  for (int64_t row = 0; row < b; ++row) {
    const std::span<const int64_t> ids(tokens.const_data_ptr<int64_t>() + row * l,
                                       static_cast<size_t>(l));
    const int64_t* target = targets.const_data_ptr<int64_t>() + row * l;
    size_t begin = 0;  // of the document within the row
    for (int64_t i = 0; i < l; ++i) {
      const auto here = static_cast<size_t>(i);
      if (target[i] == data::kNoTarget) {
        begin = here + 1;
        continue;
      }
      const auto context = ids.subspan(begin, here + 1 - begin);
      loss[row * l + i] = -std::log(probability(context, target[i], order));
    }
  }
  return losses;
}

int64_t MarkovModel::entries() const {
  int64_t sum = 0;
  for (const Counts& counts : pairs_) sum += counts.size();
  return sum;
}

}  // namespace aspis::eval
