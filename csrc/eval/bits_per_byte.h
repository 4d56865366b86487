#pragma once
// Bits per byte of a scorer on validation rows.
//
//   (bits of all predicted tokens, end-of-document ids included
//    + 8 bits per byte of each document's first token, which nobody predicts)
//   / bytes of the documents (end-of-document ids are none)
//
// A row's tokens are predicted from what stands before them in the same row and document. Every
// scorer sees the same rows and tokens, so that figures of models, of Markov models and of models
// with other tokenizers can be compared.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "data/batch.h"
#include "data/loader.h"
#include "text/tokenizer.h"

namespace aspis::eval {

// Losses in nats (b, l), any floating dtype and device, one for each target of the batch; values
// where the target is data::kNoTarget are not looked at.
using Scorer = std::function<at::Tensor(const data::Batch&)>;

struct BitsPerByte {
  double bits_per_byte = 0.0;
  double loss = 0.0;        // nats per predicted token
  double bits = 0.0;        // of the predicted tokens
  int64_t predicted = 0;    // tokens
  int64_t bytes = 0;        // predicted or first
  int64_t first_bytes = 0;  // of first tokens, 8 bits each
  int64_t documents = 0;    // whose first token is among the rows' inputs
};

// Walks all rows, `rows` at a time. Throws NonFiniteError when a loss is not finite, naming the
// place, and std::invalid_argument when the scorer's shape is not (b, l).
BitsPerByte bits_per_byte(const data::ValidationRows& validation, const text::Tokenizer& tokenizer,
                          int64_t rows, const Scorer& scorer);

}  // namespace aspis::eval
