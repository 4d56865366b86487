#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"
#include "text/byte_tokenizer.h"
#include "text/stream_decoder.h"

using aspis::test::message_of;
using aspis::text::make_tokenizer;
using aspis::text::StreamDecoder;
using aspis::text::unfinished_utf8;

namespace {

// All pieces of a stream, one per byte, then the rest.
std::vector<std::string> pieces_of(const std::string& bytes) {
  const auto tokenizer = make_tokenizer("bytes");
  StreamDecoder decoder(*tokenizer);
  std::vector<std::string> pieces;
  for (const int64_t id : tokenizer->encode(bytes)) pieces.push_back(decoder.push(id));
  pieces.push_back(decoder.finish());
  return pieces;
}

}  // namespace

TEST_CASE("byte tokenizer: every byte is its own id and comes back unchanged") {
  const auto tokenizer = make_tokenizer("bytes");
  CHECK(tokenizer->name() == "bytes");
  CHECK(tokenizer->vocab_size() == 257);
  CHECK(tokenizer->end_of_document() == 256);
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  const auto ids = tokenizer->encode(all);
  REQUIRE(ids.size() == 256);
  for (int64_t i = 0; i < 256; ++i) CHECK(ids[i] == i);
  CHECK(tokenizer->decode(ids) == all);
  CHECK(tokenizer->decode(256).empty());
  CHECK(tokenizer->encode("").empty());
}

TEST_CASE("byte tokenizer: encode appends") {
  std::vector<int64_t> ids = {7};
  make_tokenizer("bytes")->encode("ab", ids);
  CHECK(ids == std::vector<int64_t>{7, 97, 98});
}

TEST_CASE("tokenizer: messages") {
  const auto tokenizer = make_tokenizer("bytes");
  CHECK(message_of([&] { tokenizer->decode(257); }) ==
        "tokenizer bytes: id 257 is outside the vocabulary (0 .. 256)");
  CHECK(message_of([&] { tokenizer->decode(-1); }) ==
        "tokenizer bytes: id -1 is outside the vocabulary (0 .. 256)");
  CHECK(message_of([] { make_tokenizer("gpt2"); }) ==
        "tokenizer \"gpt2\": not known (allowed: bytes)");
  CHECK_THROWS_AS(make_tokenizer(""), aspis::ConfigError);
  for (const std::string& name : aspis::text::tokenizer_names()) {
    CHECK(make_tokenizer(name)->name() == name);
  }
}

TEST_CASE("stream decoder: characters come out whole") {
  using Pieces = std::vector<std::string>;
  CHECK(pieces_of("a\xC3\xA9z") == Pieces{"a", "", "\xC3\xA9", "z", ""});
  CHECK(pieces_of("\xE2\x82\xAC") == Pieces{"", "", "\xE2\x82\xAC", ""});
  CHECK(pieces_of("\xF0\x9F\x98\x80") == Pieces{"", "", "", "\xF0\x9F\x98\x80", ""});
}

TEST_CASE("stream decoder: bytes that are no UTF-8 pass as soon as that is certain") {
  using Pieces = std::vector<std::string>;
  CHECK(pieces_of("\xFF\x80") == Pieces{"\xFF", "\x80", ""});
  CHECK(pieces_of("\xC3\x41") == Pieces{"", "\xC3\x41", ""});
  CHECK(pieces_of("\xC0\xAF") == Pieces{"\xC0", "\xAF", ""});  // overlong
  CHECK(pieces_of("\xE0\x80") == Pieces{"", "\xE0\x80", ""});  // overlong
  CHECK(pieces_of("\xED\xA0") == Pieces{"", "\xED\xA0", ""});  // surrogate
  CHECK(pieces_of("\xF4\x90") == Pieces{"", "\xF4\x90", ""});  // above U+10FFFF
  CHECK(pieces_of("\xE2\xC3\xA9") == Pieces{"", "\xE2", "\xC3\xA9", ""});
  CHECK(pieces_of("\xF0\x9F\x98") == Pieces{"", "", "", "\xF0\x9F\x98"});  // cut at the end
}

TEST_CASE("stream decoder: the pieces of any byte string add up to it") {
  uint32_t state = 1;
  for (int trial = 0; trial < 300; ++trial) {
    std::string bytes, sum;
    for (int i = 0; i < 64; ++i) {
      state = state * 1664525u + 1013904223u;
      // Mostly lead and continuation bytes, where the decisions are.
      bytes.push_back(static_cast<char>((state >> 24) | (i % 3 ? 0x80 : 0)));
    }
    for (const std::string& piece : pieces_of(bytes)) sum += piece;
    CHECK(sum == bytes);
  }
  CHECK(unfinished_utf8("") == 0);
  CHECK(unfinished_utf8("abc\xF0\x9F") == 2);
}
