#include "eval/bits_per_byte.h"

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/error.h"

namespace aspis::eval {
namespace {

std::vector<int64_t> bytes_of_ids(const text::Tokenizer& tokenizer) {
  std::vector<int64_t> bytes(static_cast<size_t>(tokenizer.vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    bytes[id] = static_cast<int64_t>(tokenizer.decode(static_cast<int64_t>(id)).size());
  }
  return bytes;
}

int64_t bytes_of(const std::vector<int64_t>& table, int64_t id) {
  if (id < 0 || id >= static_cast<int64_t>(table.size())) {
    throw DataError("validation holds id " + std::to_string(id) + ", the tokenizer has ids 0 .. " +
                        std::to_string(table.size() - 1),
                    "the shard was made with another tokenizer");
  }
  return table[static_cast<size_t>(id)];
}

}  // namespace

BitsPerByte bits_per_byte(const data::ValidationRows& validation, const text::Tokenizer& tokenizer,
                          int64_t rows, const Scorer& scorer) {
  const std::vector<int64_t> bytes = bytes_of_ids(tokenizer);
  BitsPerByte result;
  double nats = 0.0;
  for (int64_t first = 0; first < validation.rows(); first += rows) {
    const data::Batch batch = validation.batch(first, rows);
    const at::Tensor scored = scorer(batch);  // (b, l)
    if (scored.sizes() != batch.targets.sizes()) {
      throw std::invalid_argument("bits_per_byte: the scorer's losses must be (b, l)");
    }
    const at::Tensor losses = scored.to(at::kCPU, at::kDouble).contiguous();
    const double* loss = losses.const_data_ptr<double>();
    const int64_t* target = batch.targets.const_data_ptr<int64_t>();
    const int64_t* token = batch.tokens.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < batch.targets.numel(); ++i) {
      if (target[i] == data::kNoTarget) continue;
      if (!std::isfinite(loss[i])) {
        throw NonFiniteError("validation: the loss of row " +
                             std::to_string(first + i / batch.targets.size(1)) + ", token " +
                             std::to_string(i % batch.targets.size(1)) + " is not finite");
      }
      nats += loss[i];
      ++result.predicted;
      result.bytes += bytes_of(bytes, target[i]);
    }
    for (const int64_t start : batch.document_starts) {
      result.first_bytes += bytes_of(bytes, token[start]);
      ++result.documents;
    }
  }
  result.bytes += result.first_bytes;
  if (result.bytes == 0) throw DataError("validation holds no bytes of text");
  result.bits = nats / std::numbers::ln2;
  result.loss = result.predicted > 0 ? nats / static_cast<double>(result.predicted) : 0.0;
  result.bits_per_byte = (result.bits + 8.0 * static_cast<double>(result.first_bytes)) /
                         static_cast<double>(result.bytes);
  return result;
}

}  // namespace aspis::eval
