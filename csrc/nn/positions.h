#pragma once
// What attention and the position-wise layers need to know of packed documents (ops/documents.h).

#include <ATen/core/Tensor.h>

#include <optional>

#include "nn/mixer.h"

namespace aspis::nn {

// Shape checks of ops/documents.h; on the CPU also the contents of cu_seqlens.
void check_segments(const char* op, const at::Tensor& hidden, const Segments& segments);

// (r, l) with r = b, or r = 1 where all rows are alike.
struct Positions {
  at::Tensor document;  // int64; tokens see each other only if equal; each padding token is alone
  at::Tensor position;  // int64; grows by one per real token of a row
};

// Padding does not count: in [5, 5, -1, 5] the last token stands right behind the second. Positions
// run on across documents, which only differences of them must tell.
Positions list_positions(const at::Tensor& hidden, const Segments& segments);

// out (b, l, ...) with zeros (and no gradient) at padding tokens; `out` itself without seq_idx.
at::Tensor zero_padding(const at::Tensor& out, const Segments& segments);

}  // namespace aspis::nn
