#pragma once
// "bytes": ids 0 .. 255 are the bytes themselves, 256 ends a document.

#include "text/tokenizer.h"

namespace aspis::text {

class ByteTokenizer : public Tokenizer {
 public:
  static constexpr int64_t kEndOfDocument = 256;

  const std::string& name() const override;
  int64_t vocab_size() const override { return kEndOfDocument + 1; }
  int64_t end_of_document() const override { return kEndOfDocument; }

  using Tokenizer::decode;
  using Tokenizer::encode;
  void encode(std::string_view bytes, std::vector<int64_t>& ids) const override;
  std::string decode(std::span<const int64_t> ids) const override;
};

}  // namespace aspis::text
