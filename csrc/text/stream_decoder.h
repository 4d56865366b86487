#pragma once
// Ids one at a time -> bytes that may be printed at once.
//
// A character of several bytes may be spread over several ids; printed half, a terminal shows
// rubbish. The decoder holds back bytes that can still become a valid UTF-8 character and gives
// everything else out unchanged, so that all pieces together are exactly decode(all ids): bytes
// that are no UTF-8 pass through as soon as that is certain.

#include <string>

#include "text/tokenizer.h"

namespace aspis::text {

class StreamDecoder {
 public:
  // The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // The bytes that became certain with this id, often none.
  std::string push(int64_t id);
  // What is still held back (an unfinished character), at the end of the text.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string held_;  // at most three bytes between calls
};

// Number of bytes at the end of `bytes` that are the beginning of a valid UTF-8 character which is
// not yet complete (0 to 3).
size_t unfinished_utf8(std::string_view bytes);

}  // namespace aspis::text
