#pragma once
// Documents packed in rows: how seq_idx and cu_seqlens cut a (b, l) block.
//
// seq_idx (b, l) int32: a document ends where the value changes; a negative value is padding: its
// outputs
//   are zero and the state passes over it, so [5, 5, -1, 5] is one document of three tokens. The
//   initial state belongs to the row's first document, last_state to its last; states are (b, ...).
// cu_seqlens (docs + 1) int32, b = 1: document i is [cu_seqlens[i], cu_seqlens[i + 1]); states are
//   (docs, ...); a document of length zero returns its initial state.
// Neither: every row is one document. Both: refused.
//
// With reverse, time is walked from the right: the initial state enters at the right end, documents
// start at their right border.

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace aspis::ops {

// Shape, dtype and device checks that need no values, for every kernel including Meta. `x` is (b,
// l, ...).
void check_documents(const char* op, const at::Tensor& x, const std::optional<at::Tensor>& seq_idx,
                     const std::optional<at::Tensor>& cu_seqlens);

// Leading size of the state tensors: docs with cu_seqlens, else b.
c10::SymInt state_count(const at::Tensor& x, const std::optional<at::Tensor>& cu_seqlens);

// A stretch [begin, end) of real tokens. With reverse it is walked from end - 1 down to begin.
struct Run {
  int64_t begin;
  int64_t end;
  bool starts_document;  // the state is reset (or the initial one is loaded) before this run
};

// What one carried state walks through: a row, or a document under cu_seqlens. Runs are in walking
// order. The first run of a sequence starts from the initial state at index `state` (zeros where
// the caller has none), the state after the last run is last_state[state]. Without runs that is the
// initial state itself.
struct Sequence {
  int64_t row;
  int64_t state;
  std::vector<Run> runs;
};

struct Documents {
  std::vector<Sequence> sequences;
  bool has_padding = false;  // some positions lie in no run: their outputs and gradients are zero
};

// Reads the values (on a GPU tensor this waits for the device) and refuses wrong contents:
// cu_seqlens must start at 0, never decrease and end at l.
Documents list_documents(const char* op, int64_t b, int64_t l,
                         const std::optional<at::Tensor>& seq_idx,
                         const std::optional<at::Tensor>& cu_seqlens, bool reverse);

// The same cut, one entry per document, for reference implementations: positions (tokens) int64 in
// walking order index the row's tokens. `initial` and `last` index the state tensors, -1 where the
// document has none of its own. Documents without tokens appear under cu_seqlens, and for rows of
// nothing but padding.
struct DocumentTokens {
  int64_t row;
  int64_t initial;
  int64_t last;
  at::Tensor positions;
};
std::vector<DocumentTokens> list_document_tokens(const char* op, const at::Tensor& x,
                                                 const std::optional<at::Tensor>& seq_idx,
                                                 const std::optional<at::Tensor>& cu_seqlens,
                                                 bool reverse);

}  // namespace aspis::ops
