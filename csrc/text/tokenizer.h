#pragma once
// Bytes <-> token ids. A tokenizer has a name under which shards and runs remember it.
//
// A new kind is a pair of files with a class below `Tokenizer` and one row in the table of
// tokenizer.cpp; kinds that read a file take it from what follows the colon of the name
// ("KIND:path").

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace aspis::text {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // make_tokenizer(name()) gives the same tokenizer again.
  virtual const std::string& name() const = 0;
  // Ids are 0 .. vocab_size() - 1.
  virtual int64_t vocab_size() const = 0;
  // The id after the last token of each document; encode never gives it.
  virtual int64_t end_of_document() const = 0;

  // Appends the ids of `bytes`. Any bytes are allowed, valid UTF-8 or not, and
  // decode(encode(bytes)) gives them back unchanged.
  virtual void encode(std::string_view bytes, std::vector<int64_t>& ids) const = 0;
  std::vector<int64_t> encode(std::string_view bytes) const;

  // The bytes of the ids; the end of a document has none. Throws DataError for an id outside the
  // vocabulary. The bytes of a part of a sequence need not be valid UTF-8: to print a growing
  // sequence use StreamDecoder (stream_decoder.h).
  virtual std::string decode(std::span<const int64_t> ids) const = 0;
  std::string decode(int64_t id) const { return decode(std::span(&id, 1)); }
};

// Names that make_tokenizer accepts.
std::vector<std::string> tokenizer_names();

// Throws ConfigError with the allowed names for any other.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name);

}  // namespace aspis::text
