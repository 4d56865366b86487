// Cases that tests/python/test_indexed_dataset.py runs by name, to compare with numpy. They are
// hidden (a tag with a dot): a plain run of this program leaves them out. ASPIS_EXCHANGE is the
// folder where both sides put their files.

#include <cstdlib>
#include <fstream>
#include <numeric>
#include <string>

#include "data/indexed_dataset.h"
#include "data/sample_order.h"
#include "support/catch.h"

using aspis::data::IndexedDataset;
using aspis::data::IndexedWriter;
using aspis::data::TokenType;

namespace {

std::string exchange(const std::string& name) {
  const char* folder = std::getenv("ASPIS_EXCHANGE");
  REQUIRE(folder != nullptr);
  return std::string(folder) + "/" + name;
}

template <typename T>
void write_array(const std::string& file, const std::vector<T>& values) {
  std::ofstream out(file, std::ios::binary);
  out.write(reinterpret_cast<const char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(T)));
  CHECK(out.good());
}

}  // namespace

TEST_CASE("exchange: write a set of every dtype", "[.exchange]") {
  for (const auto type : {TokenType::kUint8, TokenType::kInt8, TokenType::kInt16, TokenType::kInt32,
                          TokenType::kInt64, TokenType::kUint16}) {
    IndexedWriter writer(exchange(std::string("ours_") + aspis::data::token_type_name(type)), type);
    for (int64_t document = 0; document < 5; ++document) {
      // 0, 1, 2, ... sequences of 3, 4, ... tokens.
      for (int64_t sequence = 0; sequence < document; ++sequence) {
        std::vector<int64_t> ids(static_cast<size_t>(3 + sequence));
        std::iota(ids.begin(), ids.end(), 10 * document + sequence);
        writer.add_sequence(ids);
      }
      writer.end_document();
    }
    writer.finish();
  }
}

TEST_CASE("exchange: read a set and write its tokens", "[.exchange]") {
  const IndexedDataset set(exchange("theirs"));
  std::vector<int64_t> ids, documents;
  for (int64_t i = 0; i < set.sequences(); ++i) {
    const auto sequence = set.read(i);
    ids.push_back(set.length(i));
    ids.insert(ids.end(), sequence.begin(), sequence.end());
  }
  for (int64_t i = 0; i <= set.documents(); ++i) documents.push_back(set.first_sequence(i));
  write_array(exchange("theirs_ids"), ids);
  write_array(exchange("theirs_documents"), documents);
}

TEST_CASE("exchange: shuffles", "[.exchange]") {
  // Lines "seed length": two shuffles in turn with one generator.
  std::ifstream wanted(exchange("shuffles"));
  std::vector<int32_t> all;
  uint32_t seed = 0;
  size_t length = 0;
  while (wanted >> seed >> length) {
    aspis::data::NumpyShuffle random(seed);
    for (int turn = 0; turn < 2; ++turn) {
      std::vector<int32_t> values(length);
      std::iota(values.begin(), values.end(), 0);
      random.shuffle(std::span(values));
      all.insert(all.end(), values.begin(), values.end());
    }
  }
  write_array(exchange("shuffled"), all);
}

TEST_CASE("exchange: megatron orders", "[.exchange]") {
  // Lines "seed seq_len samples count length_0 length_1 ...".
  std::ifstream wanted(exchange("orders"));
  std::vector<int64_t> all;
  uint32_t seed = 0;
  int64_t seq_len = 0, samples = 0;
  size_t count = 0;
  while (wanted >> seed >> seq_len >> samples >> count) {
    std::vector<int32_t> lengths(count);
    for (int32_t& length : lengths) wanted >> length;
    const auto order = aspis::data::megatron_order(lengths, seq_len, samples, seed);
    all.insert(all.end(), order.document_index.begin(), order.document_index.end());
    for (const auto& place : order.sample_index) {
      all.push_back(place.document);
      all.push_back(place.offset);
    }
    all.insert(all.end(), order.shuffle_index.begin(), order.shuffle_index.end());
  }
  write_array(exchange("ordered"), all);
}
