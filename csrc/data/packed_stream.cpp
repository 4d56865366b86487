#include "data/packed_stream.h"

#include <algorithm>
#include <utility>

namespace aspis::data {

PackedStream::PackedStream(IndexedDataset set, const std::vector<int64_t>& documents,
                           int64_t seq_len, int64_t max_tokens)
    : set_(std::move(set)), seq_len_(seq_len) {
  for (const int64_t document : documents) {
    bool first = true;
    for (int64_t i = set_.first_sequence(document); i < set_.first_sequence(document + 1); ++i) {
      if (set_.length(i) == 0) continue;
      sequences_.push_back(i);
      begins_.push_back(tokens_);
      first_sequence_.push_back(first);
      tokens_ += set_.length(i);
      first = false;
    }
  }
  begins_.push_back(tokens_);
  if (max_tokens > 0) tokens_ = std::min(tokens_, max_tokens);
}

void PackedStream::read(int64_t begin, std::span<int64_t> ids, std::vector<char>& starts) const {
  starts.assign(ids.size(), 0);
  auto piece = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), begin) -
                                   begins_.begin() - 1);
  for (size_t done = 0; done < ids.size(); ++piece) {
    const int64_t offset = begin + static_cast<int64_t>(done) - begins_[piece];
    const auto left = static_cast<size_t>(begins_[piece + 1] - begins_[piece] - offset);
    const size_t count = std::min(left, ids.size() - done);
    set_.read(sequences_[piece], offset, ids.subspan(done, count));
    if (offset == 0 && first_sequence_[piece]) starts[done] = 1;
    done += count;
  }
}

int64_t PackedStream::fill(int64_t row, const RowView& view, std::vector<int64_t>& starts) const {
  const int64_t begin = row * seq_len_;
  // The last token of the stream is a target only.
  const int64_t count = std::min(seq_len_, tokens_ - 1 - begin);
  std::vector<int64_t> ids(static_cast<size_t>(count + 1));
  std::vector<char> is_start;
  read(begin, ids, is_start);
  int32_t document = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (is_start[i]) {
      starts.push_back(i);
      if (i > 0) ++document;
    }
    view.tokens[i] = ids[i];
    view.targets[i] = is_start[i + 1] ? kNoTarget : ids[i + 1];
    if (!view.seq_idx.empty()) view.seq_idx[i] = document;
  }
  for (int64_t i = count; i < seq_len_; ++i) {
    view.tokens[i] = 0;
    view.targets[i] = kNoTarget;
    if (!view.seq_idx.empty()) view.seq_idx[i] = -1;
  }
  return count;
}

}  // namespace aspis::data
