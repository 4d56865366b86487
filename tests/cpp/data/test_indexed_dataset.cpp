#include <cstring>
#include <functional>

#include "core/error.h"
#include "data/indexed_dataset.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "support/tolerance.h"

using aspis::DataError;
using aspis::data::IndexedDataset;
using aspis::data::IndexedWriter;
using aspis::data::TokenType;
using aspis::test::message_of;
using aspis::test::Scratch;

namespace {

using Ids = std::vector<int64_t>;

// Documents of 2, 0 and 1 sequences: [[1 2 3] [4]], [], [[5 6]].
std::string write_small(const Scratch& scratch, TokenType type = TokenType::kUint16) {
  const std::string prefix = scratch.path("small");
  IndexedWriter writer(prefix, type);
  writer.add_sequence(Ids{1, 2, 3});
  writer.add_sequence(Ids{4});
  writer.end_document();
  writer.end_document();
  writer.add_sequence(Ids{5, 6});
  writer.end_document();
  CHECK(writer.tokens() == 6);
  writer.finish();
  return prefix;
}

template <typename T>
void append(std::string& bytes, std::initializer_list<T> values) {
  for (const T value : values) bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace

TEST_CASE("indexed dataset: what was written is read back, for every dtype") {
  for (const auto type : {TokenType::kUint8, TokenType::kInt8, TokenType::kInt16, TokenType::kInt32,
                          TokenType::kInt64, TokenType::kUint16}) {
    const Scratch scratch;
    const IndexedDataset set(write_small(scratch, type));
    CHECK(set.type() == type);
    CHECK(set.tokens() == 6);
    CHECK(set.sequences() == 3);
    REQUIRE(set.documents() == 3);
    CHECK(set.first_sequence(0) == 0);
    CHECK(set.first_sequence(1) == 2);
    CHECK(set.first_sequence(2) == 2);
    CHECK(set.first_sequence(3) == 3);
    CHECK(set.read(0) == Ids{1, 2, 3});
    CHECK(set.read(1) == Ids{4});
    CHECK(set.read(2) == Ids{5, 6});
    Ids two(2);
    set.read(0, 1, two);
    CHECK(two == Ids{2, 3});
    CHECK_THROWS_AS(set.read(0, 2, two), std::out_of_range);
    CHECK_THROWS_AS(set.read(3, 0, two), std::out_of_range);
  }
}

TEST_CASE("indexed dataset: the bytes are those of the format") {
  const Scratch scratch;
  const std::string prefix = write_small(scratch);
  std::string bin, idx("MMIDIDX\0\0", 9);
  append<uint16_t>(bin, {1, 2, 3, 4, 5, 6});
  append<uint64_t>(idx, {1});
  append<uint8_t>(idx, {8});
  append<uint64_t>(idx, {3, 4});
  append<int32_t>(idx, {3, 1, 2});
  append<int64_t>(idx, {0, 6, 8});
  append<int64_t>(idx, {0, 2, 2, 3});
  CHECK(Scratch::read(prefix + ".bin") == bin);
  CHECK(Scratch::read(prefix + ".idx") == idx);
}

TEST_CASE("indexed dataset: an empty set is a valid one") {
  const Scratch scratch;
  IndexedWriter(scratch.path("none"), TokenType::kInt32).finish();
  const IndexedDataset set(scratch.path("none"));
  CHECK(set.tokens() == 0);
  CHECK(set.documents() == 0);
  set.check_vocabulary(1);
}

TEST_CASE("indexed writer: the choice of dtype and its limits") {
  CHECK(aspis::data::token_type_for_vocabulary(257) == TokenType::kUint16);
  CHECK(aspis::data::token_type_for_vocabulary(65499) == TokenType::kUint16);
  CHECK(aspis::data::token_type_for_vocabulary(65500) == TokenType::kInt32);
  const Scratch scratch;
  const auto refused = [&](TokenType type, int64_t id) {
    IndexedWriter writer(scratch.path("range"), type);
    return message_of([&] { writer.add_sequence(Ids{id}); });
  };
  CHECK(refused(TokenType::kUint16, 65536) ==
        scratch.path("range.bin") + ": sequence 0: id 65536 does not fit into uint16");
  CHECK_FALSE(refused(TokenType::kUint8, -1).empty());
  CHECK_FALSE(refused(TokenType::kInt8, 128).empty());
  CHECK_FALSE(refused(TokenType::kInt32, int64_t{1} << 31).empty());
  IndexedWriter extremes(scratch.path("extremes"), TokenType::kInt64);
  extremes.add_sequence(Ids{INT64_MIN, INT64_MAX});
  extremes.finish();
  CHECK(IndexedDataset(scratch.path("extremes")).read(0) == Ids{INT64_MIN, INT64_MAX});
}

TEST_CASE("indexed writer: without finish nothing is left and nothing is replaced") {
  const Scratch scratch;
  const std::string prefix = write_small(scratch);
  const std::string before = Scratch::read(prefix + ".bin");
  {
    IndexedWriter writer(prefix, TokenType::kUint16);
    writer.add_sequence(Ids{9, 9});
  }
  CHECK(Scratch::read(prefix + ".bin") == before);
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(scratch.folder())) {
    ++files;
  }
  CHECK(files == 2);
  CHECK_THROWS_AS(IndexedWriter(scratch.path("no/such/folder"), TokenType::kUint16), DataError);
}

TEST_CASE("indexed dataset: ids outside the vocabulary are named") {
  const Scratch scratch;
  const std::string prefix = write_small(scratch);
  const IndexedDataset set(prefix);
  set.check_vocabulary(7);
  CHECK(message_of([&] { set.check_vocabulary(6); }) ==
        prefix + ".bin: token 1 of sequence 2 is 6, the vocabulary has ids 0 .. 5");
  for (const auto type :
       {TokenType::kInt8, TokenType::kInt16, TokenType::kInt32, TokenType::kInt64}) {
    IndexedWriter writer(scratch.path("negative"), type);
    writer.add_sequence(Ids{3, -1});
    writer.finish();
    CHECK(message_of([&] { IndexedDataset(scratch.path("negative")).check_vocabulary(100000); }) ==
          scratch.path("negative") +
              ".bin: token 1 of sequence 0 is -1, the vocabulary has ids 0 .. 99999");
  }
  IndexedWriter bytes(scratch.path("bytes"), TokenType::kUint8);
  bytes.add_sequence(Ids{255});
  bytes.finish();
  IndexedDataset(scratch.path("bytes")).check_vocabulary(256);
  CHECK_THROWS_AS(IndexedDataset(scratch.path("bytes")).check_vocabulary(255), DataError);
}

TEST_CASE("indexed dataset: messages name the file and what is wrong") {
  const Scratch scratch;
  const std::string prefix = write_small(scratch);
  const std::string idx = Scratch::read(prefix + ".idx");
  const auto changed = [&](size_t at, const std::string& bytes) {
    std::string copy = idx;
    copy.replace(at, bytes.size(), bytes);
    scratch.write("small.idx", copy);
    const std::string message = message_of([&] { IndexedDataset set(prefix); });
    CHECK(message.find(prefix + ".idx: ") == 0);
    return message.substr(prefix.size() + 6);
  };
  const auto number = [](auto value) {
    std::string bytes(sizeof(value), '\0');
    std::memcpy(bytes.data(), &value, sizeof(value));
    return bytes;
  };
  CHECK(changed(0, "X") ==
        "does not begin with MMIDIDX and two zero bytes: no index of a token shard");
  CHECK(changed(9, number(uint64_t{2})) == "version 2, only version 1 is known");
  CHECK(changed(17, number(uint8_t{7})) == "dtype code 7 (floating point) holds no token ids");
  CHECK(changed(17, number(uint8_t{9})) ==
        "dtype code 9 is unknown (1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16)");
  CHECK(changed(17, number(uint8_t{1})) ==
        "describes 10 bytes of " + prefix + ".bin, which has 12");
  CHECK(changed(18, number(uint64_t{4})) ==
        "has 102 bytes, too few for 4 sequences and 4 entries of the document index");
  CHECK(changed(18, number(uint64_t{2})) ==
        "has 102 bytes, 2 sequences and 4 entries of the document index take 90");
  CHECK(changed(18, number(UINT64_MAX)).find("too few for 18446744073709551615 sequences") !=
        std::string::npos);
  CHECK(changed(26, number(uint64_t{0})) ==
        "the document index is empty, it has at least one entry");
  CHECK(changed(34, number(int32_t{-1})) == "sequence 0 has length -1");
  CHECK(changed(34, number(int32_t{7})) ==
        "sequence 0 (offset 0, 7 tokens of 2 bytes) leaves " + prefix + ".bin with 12 bytes");
  CHECK(changed(46, number(INT64_MAX)).find("sequence 0 (offset 9223372036854775807") == 0);
  CHECK(changed(70, number(int64_t{1})) ==
        "entry 0 of the document index is 1, the first one must be 0");
  CHECK(changed(78, number(int64_t{4})) ==
        "entry 1 of the document index is 4, more than the 3 sequences");
  CHECK(changed(86, number(int64_t{1})) ==
        "entry 2 of the document index is 1, less than the one before (2)");
  CHECK(changed(94, number(int64_t{2})) ==
        "the document index ends with 2, it must end with the 3 sequences");

  scratch.write("small.idx", idx + std::string(3, '\0'));
  CHECK(message_of([&] { IndexedDataset set(prefix); }) ==
        prefix + ".idx: has one mode per sequence: multimodal sets cannot be read");
  scratch.write("small.idx", idx);
  std::filesystem::remove(prefix + ".bin");
  CHECK(message_of([&] { IndexedDataset set(prefix); }) == prefix + ".bin: no such file");
  CHECK(message_of([&] { IndexedDataset set(prefix + "er"); }) == prefix + "er.idx: no such file");
}

TEST_CASE("indexed dataset: damaged files are refused, never a crash") {
  const Scratch scratch;
  const std::string prefix = write_small(scratch);
  const std::string idx = Scratch::read(prefix + ".idx"), bin = Scratch::read(prefix + ".bin");
  const auto opens = [&] {
    try {
      const IndexedDataset set(prefix);
      for (int64_t i = 0; i < set.sequences(); ++i) (void)set.read(i);
      return true;
    } catch (const DataError&) {
      return false;
    }
  };
  for (size_t length = 0; length < idx.size(); ++length) {
    scratch.write("small.idx", idx.substr(0, length));
    CHECK_FALSE(opens());
  }
  scratch.write("small.idx", idx);
  for (size_t length = 0; length < bin.size(); ++length) {
    scratch.write("small.bin", bin.substr(0, length));
    CHECK_FALSE(opens());
  }
  scratch.write("small.bin", bin);
  REQUIRE(opens());
  // Any single bit, and bytes at the ends of their range: most changes are inconsistent; what does
  // open must be readable to the last token.
  int tried = 0, accepted = 0;
  for (size_t at = 0; at < idx.size(); ++at) {
    std::string bytes("\x00\x7F\x80\xFF", 4);
    for (int bit = 0; bit < 8; ++bit) bytes.push_back(static_cast<char>(idx[at] ^ (1 << bit)));
    for (const char byte : bytes) {
      if (idx[at] == byte) continue;
      std::string copy = idx;
      copy[at] = byte;
      scratch.write("small.idx", copy);
      const bool open = opens();
      ++tried;
      accepted += open;
      if (at < 34 && at != 17) CHECK_FALSE(open);
    }
  }
  CHECK(tried > 1000);
  CHECK(accepted < 30);  // overlapping offsets, moved borders, another dtype of 16 bits
}
