#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "data/indexed_dataset.h"
#include "data/prepare.h"
#include "eval/bits_per_byte.h"
#include "eval/markov.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "support/tolerance.h"
#include "text/tokenizer.h"

using aspis::data::Batch;
using aspis::data::DataConfig;
using aspis::data::IndexedDataset;
using aspis::data::IndexedWriter;
using aspis::data::TokenType;
using aspis::data::ValidationRows;
using aspis::eval::bits_per_byte;
using aspis::eval::BitsPerByte;
using aspis::eval::MarkovModel;
using aspis::test::check_equal_in_double;
using aspis::test::message_of;
using aspis::test::Scratch;
using aspis::text::make_tokenizer;

namespace {

using Ids = std::vector<int64_t>;

void check_near(const std::string& what, double ours, double expected) {
  check_equal_in_double(what, at::full({1}, ours, at::kDouble),
                        at::full({1}, expected, at::kDouble));
}

std::string write_texts(const Scratch& scratch, const std::vector<std::string>& texts) {
  IndexedWriter writer(scratch.path("v"), TokenType::kUint16);
  const auto tokenizer = make_tokenizer("bytes");
  for (const std::string& text : texts) {
    Ids ids = tokenizer->encode(text);
    ids.push_back(256);
    writer.add_sequence(ids);
    writer.end_document();
  }
  writer.finish();
  return scratch.path("v");
}

ValidationRows rows_of(const std::string& prefix, int64_t seq_len, int64_t max_tokens = 0,
                       bool reset = true) {
  DataConfig config;
  config.validation = prefix;
  config.seq_len = seq_len;
  config.reset_state_at_document = reset;
  return ValidationRows(config, 257, max_tokens);
}

// p_k by the formula, from plain maps over all positions of the documents.
double slow_probability(const std::vector<Ids>& documents, const Ids& context, int64_t next,
                        int64_t order, double a) {
  if (order < 0) return 1.0 / 257.0;
  const double lower = slow_probability(documents, context, next, order - 1, a);
  if (static_cast<int64_t>(context.size()) < order) return lower;
  const Ids wanted(context.end() - order, context.end());
  double count = 0.0, total = 0.0;
  for (const Ids& document : documents) {
    for (size_t i = static_cast<size_t>(std::max<int64_t>(1, order)); i < document.size(); ++i) {
      if (!std::equal(wanted.begin(), wanted.end(),
                      document.begin() + static_cast<int64_t>(i) - order)) {
        continue;
      }
      total += 1.0;
      count += document[i] == next;
    }
  }
  return (count + a * lower) / (total + a);
}

}  // namespace

TEST_CASE("bits per byte: the definition on a small set, for every row length") {
  const Scratch scratch;
  const std::string prefix = write_texts(scratch, {"abc", "x", "hello world"});  // 15 bytes
  const auto tokenizer = make_tokenizer("bytes");
  // One bit per predicted token: 12 bytes behind the first ones and 3 ends, 3 first bytes of 8
  // bits.
  const auto one_bit = [](const Batch& batch) {
    return at::full(batch.tokens.sizes(), std::log(2.0), at::kDouble);
  };
  for (const int64_t seq_len : {1, 2, 3, 4, 5, 17, 18, 64}) {
    for (const bool reset : {true, false}) {
      const BitsPerByte result =
          bits_per_byte(rows_of(prefix, seq_len, 0, reset), *tokenizer, 2, one_bit);
      CAPTURE(seq_len, reset);
      CHECK(result.documents == 3);
      CHECK(result.predicted == 15);
      CHECK(result.bytes == 15);
      CHECK(result.first_bytes == 3);
      check_near("bits", result.bits, 15.0);
      check_near("bits per byte", result.bits_per_byte, (15.0 + 24.0) / 15.0);
      check_near("loss", result.loss, std::log(2.0));
    }
  }
}

TEST_CASE("bits per byte: only the first max_tokens tokens count") {
  const Scratch scratch;
  const std::string prefix = write_texts(scratch, {"abc", "x", "hello world"});
  const auto uniform = [](const Batch& batch) {
    return at::full(batch.tokens.sizes(), std::log(257.0), at::kFloat);
  };
  const BitsPerByte result =
      bits_per_byte(rows_of(prefix, 4, 9), *make_tokenizer("bytes"), 1, uniform);
  // a b c | end | x end | h e l: two predicted ends and four predicted bytes.
  CHECK(result.predicted == 6);
  CHECK(result.documents == 3);
  CHECK(result.bytes == 7);
}

TEST_CASE("bits per byte: messages") {
  const Scratch scratch;
  const ValidationRows rows = rows_of(write_texts(scratch, {"abc", "hello world"}), 4);
  const auto tokenizer = make_tokenizer("bytes");
  CHECK(message_of([&] {
          bits_per_byte(rows, *tokenizer, 1, [](const Batch& batch) {
            at::Tensor losses = at::zeros(batch.tokens.sizes(), at::kFloat);
            // Row 0 predicts nothing at its last token, and nobody looks there.
            losses.select(0, 0).select(0, 3).fill_(NAN);
            return losses;
          });
        }) == "validation: the loss of row 1, token 3 is not finite");
  CHECK_THROWS_AS(
      bits_per_byte(rows, *tokenizer, 1, [](const Batch&) { return at::zeros({1}, at::kFloat); }),
      std::invalid_argument);
}

TEST_CASE("markov: probabilities by the formula, and they add up to one") {
  const auto tokenizer = make_tokenizer("bytes");
  std::vector<Ids> documents;
  for (const char* text : {"abracadabra", "abba", "a", ""}) {
    documents.push_back(tokenizer->encode(text));
    documents.back().push_back(256);
  }
  for (const double a : {0.3, 1.0, 5.0}) {
    MarkovModel model(3, 257, a);
    for (const Ids& document : documents) model.count(document);
    for (const char* text : {"", "a", "ab", "bra", "xab", "zzz", "abracadabra"}) {
      const Ids context = tokenizer->encode(text);
      for (int64_t order = 0; order <= 3; ++order) {
        double sum = 0.0;
        for (int64_t next = 0; next < 257; ++next) {
          const double p = model.probability(context, next, order);
          sum += p;
          if (next % 16 == 1 || next == 256) {
            check_near(text, p, slow_probability(documents, context, next, order, a));
          }
        }
        check_near("sum", sum, 1.0);
      }
    }
  }
}

TEST_CASE("markov: contexts stop at document borders and row starts") {
  const Scratch scratch;
  const ValidationRows rows = rows_of(write_texts(scratch, {"abcab", "cab"}), 4);
  MarkovModel model(2, 257);
  model.count(make_tokenizer("bytes")->encode("abcabcabcacb"));
  const Batch batch = rows.batch(0, 3);  // "abca" | "b end c a" | "b" and padding
  for (const bool reset : {true, false}) {
    Batch seen = batch;
    if (!reset) seen.seq_idx.reset();
    const at::Tensor losses = model.losses(seen, 2);
    const auto nats = [&](const Ids& context, int64_t next) {
      return -std::log(model.probability(context, next, 2));
    };
    at::Tensor expected = at::zeros({3, 4}, at::kDouble);
    double* e = expected.mutable_data_ptr<double>();
    e[0] = nats({'a'}, 'b');
    e[1] = nats({'a', 'b'}, 'c');
    e[2] = nats({'b', 'c'}, 'a');
    e[3] = nats({'c', 'a'}, 'b');
    e[4] = nats({'b'}, 256);
    e[6] = nats({'c'}, 'a');
    e[7] = nats({'c', 'a'}, 'b');
    e[8] = nats({'b'}, 256);
    check_equal_in_double("losses", losses, expected);
  }
}

TEST_CASE("markov: messages") {
  CHECK(message_of([] { MarkovModel model(7, 257); }) ==
        "Markov model of order 7 over 257 ids: the order must be 0 .. 6");
  CHECK(message_of([] { MarkovModel model(-1, 257); }) ==
        "Markov model of order -1 over 257 ids: the order must be 0 .. 6");
  CHECK_THROWS_AS(MarkovModel(1, 257, 0.0), aspis::ConfigError);
  MarkovModel model(1, 10);
  CHECK(message_of([&] { model.count(Ids{1, 10}); }) == "Markov model: id 10 is outside 0 .. 9");
}

TEST_CASE("markov: on real text higher orders are better, by the same measure as a model") {
  const Scratch scratch;
  aspis::data::PrepareOptions options;
  options.globs = {ASPIS_SOURCE_DIR "/csrc/**/*.h", ASPIS_SOURCE_DIR "/csrc/**/*.cpp"};
  options.prefix = scratch.path("sources");
  options.validation_share = 0.1;
  const auto info = aspis::data::prepare(options);
  MarkovModel model(3, 257);
  const IndexedDataset train(options.prefix + "_train");
  model.count(train);
  const auto tokenizer = make_tokenizer("bytes");
  const ValidationRows rows = rows_of(options.prefix + "_validation", 256);
  std::vector<double> bits;
  for (int64_t order = 0; order <= 3; ++order) {
    const BitsPerByte result = bits_per_byte(
        rows, *tokenizer, 16, [&](const Batch& batch) { return model.losses(batch, order); });
    CHECK(result.bytes == info.validation.bytes);
    CHECK(result.documents == info.validation.documents);
    bits.push_back(result.bits_per_byte);
  }
  INFO("orders 0 to 3: " << bits[0] << " " << bits[1] << " " << bits[2] << " " << bits[3]);
  CHECK(bits[0] < 6.0);
  CHECK(bits[1] < bits[0]);
  CHECK(bits[2] < bits[1]);
  CHECK(bits[3] < bits[2]);
  CHECK(bits[3] > 1.0);
}
