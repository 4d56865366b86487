#pragma once
// What a model sees in one forward pass.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace aspis::data {

// A target that carries no loss: a document's first token, and padding.
inline constexpr int64_t kNoTarget = -100;

// CPU tensors; the caller moves them to its device.
struct Batch {
  at::Tensor tokens;   // (b, l) int64; padding holds id 0
  at::Tensor targets;  // (b, l) int64: the next token, or kNoTarget
  // (b, l) int32: changes at each document border, starts at 0 in each row, -1 on padding. Absent
  // when the state is carried over document borders.
  std::optional<at::Tensor> seq_idx;
  int64_t real_tokens = 0;  // inputs that are no padding
  // Inputs that begin a document, as flat positions row * l + column, ascending. Under order
  // "megatron" only those that follow an end-of-document id within the row.
  std::vector<int64_t> document_starts;
};

}  // namespace aspis::data
