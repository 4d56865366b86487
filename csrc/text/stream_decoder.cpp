#include "text/stream_decoder.h"

#include <algorithm>
#include <utility>

namespace aspis::text {
namespace {

// Whether `part` (1 to 3 bytes) can still grow into a character. The second byte has a narrower
// range after E0 (overlong), ED (surrogates), F0 (overlong) and F4 (above U+10FFFF).
bool can_grow(std::string_view part) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(part[i]); };
  const unsigned char lead = byte(0);
  size_t length = 0;
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  if (lead >= 0xE0 && lead <= 0xEF) length = 3;
  if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  if (part.size() >= length) return false;
  for (size_t i = 1; i < part.size(); ++i) {
    const unsigned char low = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(i) < low || byte(i) > high) return false;
  }
  return true;
}

}  // namespace

size_t unfinished_utf8(std::string_view bytes) {
  for (size_t n = std::min<size_t>(3, bytes.size()); n > 0; --n) {
    if (can_grow(bytes.substr(bytes.size() - n))) return n;
  }
  return 0;
}

std::string StreamDecoder::push(int64_t id) {
  std::string bytes = std::move(held_) + tokenizer_->decode(id);
  const size_t cut = bytes.size() - unfinished_utf8(bytes);
  held_ = bytes.substr(cut);
  bytes.resize(cut);
  return bytes;
}

std::string StreamDecoder::finish() {
  return std::exchange(held_, std::string());
}

}  // namespace aspis::text
