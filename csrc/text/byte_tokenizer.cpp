#include "text/byte_tokenizer.h"

#include "core/error.h"

namespace aspis::text {

const std::string& ByteTokenizer::name() const {
  static const std::string name = "bytes";
  return name;
}

void ByteTokenizer::encode(std::string_view bytes, std::vector<int64_t>& ids) const {
  ids.reserve(ids.size() + bytes.size());
  for (const char byte : bytes) ids.push_back(static_cast<unsigned char>(byte));
}

std::string ByteTokenizer::decode(std::span<const int64_t> ids) const {
  std::string bytes;
  bytes.reserve(ids.size());
  for (const int64_t id : ids) {
    if (id < 0 || id > kEndOfDocument) {
      throw DataError("tokenizer bytes: id " + std::to_string(id) +
                      " is outside the vocabulary (0 .. 256)");
    }
    if (id != kEndOfDocument) bytes.push_back(static_cast<char>(id));
  }
  return bytes;
}

}  // namespace aspis::text
