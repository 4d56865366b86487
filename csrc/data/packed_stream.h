#pragma once
// Documents of a shard laid one after the other and cut into rows (loader.h, order "packed").

#include <cstdint>
#include <span>
#include <vector>

#include "data/batch.h"
#include "data/indexed_dataset.h"

namespace aspis::data {

// Where one row of a batch goes.
struct RowView {
  std::span<int64_t> tokens;   // (l)
  std::span<int64_t> targets;  // (l)
  std::span<int32_t> seq_idx;  // (l), or empty: not wanted
};

class PackedStream {
 public:
  // Documents in the given order. Of the stream only the first `max_tokens` tokens are used (0:
  // all).
  PackedStream(IndexedDataset set, const std::vector<int64_t>& documents, int64_t seq_len,
               int64_t max_tokens = 0);

  int64_t tokens() const { return tokens_; }
  // ceil((tokens - 1) / seq_len): every token but the first is a target somewhere.
  int64_t rows() const { return rows_of(tokens_, seq_len_); }
  static int64_t rows_of(int64_t tokens, int64_t seq_len) {
    return tokens < 2 ? 0 : (tokens - 2) / seq_len + 1;
  }

  // Fills row `row`. Returns the number of inputs that are no padding; appends to `starts` the
  // columns that begin a document.
  int64_t fill(int64_t row, const RowView& view, std::vector<int64_t>& starts) const;

 private:
  // `count` tokens of the stream from `begin`; starts[i] says whether token i begins a document.
  void read(int64_t begin, std::span<int64_t> ids, std::vector<char>& starts) const;

  IndexedDataset set_;
  int64_t seq_len_;
  int64_t tokens_ = 0;
  std::vector<int64_t> sequences_;    // in stream order, none empty
  std::vector<int64_t> begins_;       // where each begins in the stream, and the end
  std::vector<bool> first_sequence_;  // of its document
};

}  // namespace aspis::data
