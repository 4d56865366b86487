#include <ATen/ops/equal.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>

#include "config/json.h"
#include "core/error.h"
#include "data/indexed_dataset.h"
#include "data/loader.h"
#include "data/prepare.h"
#include "data/sample_order.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "support/tolerance.h"

using aspis::DataError;
using aspis::config::Json;
using aspis::data::Batch;
using aspis::data::DataConfig;
using aspis::data::IndexedWriter;
using aspis::data::kNoTarget;
using aspis::data::Loader;
using aspis::data::LoaderOptions;
using aspis::data::ShardInfo;
using aspis::data::TokenType;
using aspis::data::ValidationRows;
using aspis::test::message_of;
using aspis::test::Scratch;

namespace {

using Ids = std::vector<int64_t>;
constexpr int64_t kEnd = 999;

// Document d has the tokens 10 d, 10 d + 1, ... and the end, so that a token tells its place.
std::vector<Ids> documents_of_lengths(const std::vector<int64_t>& lengths) {
  std::vector<Ids> documents;
  for (size_t d = 0; d < lengths.size(); ++d) {
    Ids ids;
    for (int64_t i = 0; i < lengths[d]; ++i) ids.push_back(static_cast<int64_t>(10 * d) + i);
    ids.push_back(kEnd);
    documents.push_back(ids);
  }
  return documents;
}

std::string write_shard(const Scratch& scratch, const std::string& name,
                        const std::vector<Ids>& documents) {
  IndexedWriter writer(scratch.path(name), TokenType::kUint16);
  for (const Ids& document : documents) {
    writer.add_sequence(document);
    writer.end_document();
  }
  writer.finish();
  return scratch.path(name);
}

DataConfig config_for(const std::vector<std::string>& prefixes, int64_t seq_len) {
  DataConfig config;
  for (const std::string& prefix : prefixes) config.train.push_back({prefix, 1.0});
  config.seq_len = seq_len;
  return config;
}

LoaderOptions options_for(int64_t rows, uint64_t seed = 1) {
  LoaderOptions options;
  options.rows = rows;
  options.seed = seed;
  options.vocab_size = 1000;
  options.samples = 10000;
  return options;
}

Ids row_of(const at::Tensor& tensor, int64_t row) {
  const at::Tensor line = tensor.select(0, row).to(at::kLong).contiguous();
  return {line.const_data_ptr<int64_t>(), line.const_data_ptr<int64_t>() + line.numel()};
}

struct Row {
  Ids tokens, targets, seq_idx;
  bool operator==(const Row&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << "tokens " << Catch::Detail::stringify(row.tokens) << " targets "
             << Catch::Detail::stringify(row.targets) << " seq_idx "
             << Catch::Detail::stringify(row.seq_idx);
}

std::vector<Row> rows_of(const Batch& batch) {
  std::vector<Row> rows;
  for (int64_t i = 0; i < batch.tokens.size(0); ++i) {
    rows.push_back({row_of(batch.tokens, i), row_of(batch.targets, i),
                    batch.seq_idx ? row_of(*batch.seq_idx, i) : Ids{}});
  }
  return rows;
}

std::vector<Row> take(Loader& loader, int64_t batches) {
  std::vector<Row> rows;
  for (int64_t i = 0; i < batches; ++i) {
    for (Row& row : rows_of(loader.next())) rows.push_back(std::move(row));
  }
  return rows;
}

// The same batch by its definition, written the slow way: a stream of (token, begins a document).
Row expected_row(const std::vector<Ids>& documents, int64_t seq_len, int64_t row) {
  Ids stream;
  std::vector<bool> begins;
  for (const Ids& document : documents) {
    for (size_t i = 0; i < document.size(); ++i) {
      stream.push_back(document[i]);
      begins.push_back(i == 0);
    }
  }
  Row out;
  int64_t document = 0;
  for (int64_t j = 0; j < seq_len; ++j) {
    const size_t at = static_cast<size_t>(row * seq_len + j);
    if (at + 1 >= stream.size()) {
      out.tokens.push_back(0);
      out.targets.push_back(kNoTarget);
      out.seq_idx.push_back(-1);
      continue;
    }
    if (j > 0 && begins[at]) ++document;
    out.tokens.push_back(stream[at]);
    out.targets.push_back(begins[at + 1] ? kNoTarget : stream[at + 1]);
    out.seq_idx.push_back(document);
  }
  return out;
}

}  // namespace

TEST_CASE("validation rows: file order, borders, padding") {
  const Scratch scratch;
  const auto documents = documents_of_lengths({3, 1, 5, 2});  // 15 tokens with ends
  for (const int64_t seq_len : {1, 2, 3, 4, 5, 7, 13, 14, 15, 30}) {
    DataConfig config = config_for({}, seq_len);
    config.validation = write_shard(scratch, "v", documents);
    const ValidationRows rows(config, 1000);
    CAPTURE(seq_len);
    CHECK(rows.tokens() == 15);
    CHECK(rows.rows() == (14 + seq_len - 1) / seq_len);
    const Batch batch = rows.batch(0, 1000);
    REQUIRE(batch.tokens.size(0) == rows.rows());
    CHECK(batch.real_tokens == 14);
    const auto got = rows_of(batch);
    for (int64_t i = 0; i < rows.rows(); ++i) {
      CHECK(got[i].tokens == expected_row(documents, seq_len, i).tokens);
      CHECK(got[i].targets == expected_row(documents, seq_len, i).targets);
      CHECK(got[i].seq_idx == expected_row(documents, seq_len, i).seq_idx);
      CHECK(rows_of(rows.batch(i, 1))[0] == got[i]);
    }
    // Stream places of the documents' first tokens; rows are consecutive pieces of the stream.
    CHECK(batch.document_starts == Ids{0, 4, 6, 12});
  }
}

TEST_CASE("validation rows: only the first max_tokens tokens") {
  const Scratch scratch;
  DataConfig config = config_for({}, 4);
  config.validation = write_shard(scratch, "v", documents_of_lengths({3, 1, 5, 2}));
  const ValidationRows rows(config, 1000, 7);
  CHECK(rows.tokens() == 7);
  CHECK(rows.rows() == 2);
  const Batch batch = rows.batch(0, 2);
  CHECK(batch.real_tokens == 6);
  CHECK(row_of(batch.tokens, 1) == Ids{10, kEnd, 0, 0});
  CHECK(row_of(batch.targets, 1) == Ids{kEnd, kNoTarget, kNoTarget, kNoTarget});
  CHECK(row_of(*batch.seq_idx, 1) == Ids{0, 0, -1, -1});
  CHECK(ValidationRows(config, 1000, 1 << 20).tokens() == 15);
  CHECK_THROWS_AS(rows.batch(2, 1), std::out_of_range);
}

TEST_CASE("validation rows: documents of several sequences, and of none") {
  const Scratch scratch;
  IndexedWriter writer(scratch.path("v"), TokenType::kInt32);
  writer.add_sequence(Ids{1, 2});
  writer.add_sequence(Ids{});
  writer.add_sequence(Ids{3});
  writer.end_document();
  writer.end_document();
  writer.add_sequence(Ids{});
  writer.add_sequence(Ids{4, 5});
  writer.end_document();
  writer.finish();
  DataConfig config = config_for({}, 5);
  config.validation = scratch.path("v");
  const Batch batch = ValidationRows(config, 1000).batch(0, 1);
  CHECK(row_of(batch.tokens, 0) == Ids{1, 2, 3, 4, 0});
  CHECK(row_of(batch.targets, 0) == Ids{2, 3, kNoTarget, 5, kNoTarget});
  CHECK(row_of(*batch.seq_idx, 0) == Ids{0, 0, 0, 1, -1});
  CHECK(batch.document_starts == Ids{0, 3});
}

TEST_CASE("loader packed: every token but a document's first is predicted once per epoch") {
  const Scratch scratch;
  const auto documents = documents_of_lengths({3, 1, 5, 2, 8, 0, 4, 9, 6, 7});  // 55 tokens
  for (const int64_t seq_len : {1, 4, 9, 27, 54}) {
    Loader loader(config_for({write_shard(scratch, "t", documents)}, seq_len), options_for(1));
    const int64_t rows = (54 + seq_len - 1) / seq_len;
    CHECK(loader.tokens_per_epoch() == 55);
    std::set<Ids> orders;
    for (int64_t epoch = 0; epoch < 4; ++epoch) {
      std::map<int64_t, int64_t> predicted;
      Ids stream;
      int64_t real = 0;
      for (int64_t i = 0; i < rows; ++i) {
        const Batch batch = loader.next();
        real += batch.real_tokens;
        const Row row = rows_of(batch)[0];
        for (int64_t j = 0; j < seq_len; ++j) {
          if (row.seq_idx[j] >= 0) stream.push_back(row.tokens[j]);
          if (row.targets[j] == kNoTarget) continue;
          ++predicted[row.targets[j]];
          // The right successor, of the same document.
          if (row.targets[j] == kEnd) {
            CHECK(row.tokens[j] % 10 ==
                  static_cast<int64_t>(documents[row.tokens[j] / 10].size() - 2));
          } else {
            CHECK(row.targets[j] == row.tokens[j] + 1);
          }
        }
      }
      CHECK(real == 54);
      CHECK(predicted[kEnd] == 9);  // one document is nothing but its end, which is its first token
      predicted.erase(kEnd);
      int64_t sum = 0;
      for (const auto& [token, count] : predicted) {
        CHECK(count == 1);
        CHECK(token % 10 != 0);
        sum += count;
      }
      CHECK(sum == 55 - 10 - 9);
      orders.insert(stream);
    }
    CHECK(orders.size() == 4);  // each epoch in another order
    CHECK(loader.epochs() == 4.0);
    CHECK(loader.rows_taken() == 4 * rows);
  }
}

TEST_CASE("loader packed: rows are those of the definition for the epoch's order") {
  const Scratch scratch;
  const auto documents = documents_of_lengths({3, 1, 5, 2, 8, 4, 9});
  Loader loader(config_for({write_shard(scratch, "t", documents)}, 6), options_for(1, 42));
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<Ids> shuffled;
    for (const int64_t d : aspis::data::epoch_permutation(7, 42, epoch)) {
      shuffled.push_back(documents[d]);
    }
    for (int64_t i = 0; i < (38 + 5) / 6; ++i) {
      CHECK(rows_of(loader.next())[0] == expected_row(shuffled, 6, i));
    }
  }
}

TEST_CASE("loader: without reset there is no seq_idx, targets stay the same") {
  const Scratch scratch;
  DataConfig config =
      config_for({write_shard(scratch, "t", documents_of_lengths({3, 1, 5, 2}))}, 5);
  Loader with(config, options_for(2));
  config.reset_state_at_document = false;
  Loader without(config, options_for(2));
  for (int i = 0; i < 4; ++i) {
    const Batch a = with.next(), b = without.next();
    CHECK(a.seq_idx.has_value());
    CHECK_FALSE(b.seq_idx.has_value());
    CHECK(at::equal(a.tokens, b.tokens));
    CHECK(at::equal(a.targets, b.targets));
    CHECK(a.document_starts == b.document_starts);
  }
}

TEST_CASE("loader: resumes exactly, at every place and through JSON text") {
  const Scratch scratch;
  const std::string one = write_shard(scratch, "a", documents_of_lengths({3, 1, 5, 2, 8, 4}));
  const std::string two = write_shard(scratch, "b", documents_of_lengths({9, 9, 9}));
  for (const char* order : {"packed", "megatron"}) {
    for (const auto& prefixes : {std::vector<std::string>{one}, {one, two}}) {
      DataConfig config = config_for(prefixes, 4);
      config.order = order;
      config.end_of_document = kEnd;
      config.train[0].weight = 2.5;
      Loader loader(config, options_for(3));
      for (int i = 0; i < 25; ++i) {
        const std::string here = loader.position().dump();
        Loader resumed(config, options_for(3));
        take(resumed, i % 4);  // a used loader goes back as well
        resumed.restore(aspis::config::parse_json_text(here, "position"));
        CHECK(resumed.position().dump() == here);
        CHECK(resumed.rows_taken() == 3 * i);
        const Json before = loader.position();
        const auto ahead = take(loader, 3);
        CHECK(take(resumed, 3) == ahead);
        loader.restore(before);
        take(loader, 1);
      }
    }
  }
}

TEST_CASE("loader: the global order does not depend on ranks and rows per rank") {
  const Scratch scratch;
  const std::string one = write_shard(scratch, "a", documents_of_lengths({3, 1, 5, 2, 8, 4}));
  const std::string two = write_shard(scratch, "b", documents_of_lengths({9, 9, 9}));
  for (const char* order : {"packed", "megatron"}) {
    DataConfig config = config_for({one, two}, 4);
    config.order = order;
    config.end_of_document = kEnd;
    Loader single(config, options_for(1));
    const auto wanted = take(single, 48);
    for (const auto& [world, rows] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 6}, {2, 3}, {3, 2}, {4, 1}}) {
      std::vector<Loader> ranks;
      for (int64_t rank = 0; rank < world; ++rank) {
        LoaderOptions options = options_for(rows);
        options.rank = rank;
        options.world = world;
        ranks.emplace_back(config, options);
      }
      std::vector<Row> got;
      while (got.size() < wanted.size()) {
        for (Loader& loader : ranks) {
          for (Row& row : take(loader, 1)) got.push_back(std::move(row));
        }
      }
      CHECK(got == wanted);
      CHECK(ranks.front().position() == ranks.back().position());
    }
  }
}

TEST_CASE("loader megatron: samples of the order, documents by their ends") {
  const Scratch scratch;
  const auto documents = documents_of_lengths({3, 1, 5, 2, 8, 4});
  DataConfig config = config_for({write_shard(scratch, "t", documents)}, 6);
  config.order = "megatron";
  config.end_of_document = kEnd;
  LoaderOptions options = options_for(1, 1234);
  options.samples = 11;
  Loader loader(config, options);
  config.reset_state_at_document = false;
  Loader plain(config, options);
  std::vector<int32_t> lengths;
  for (const Ids& document : documents) lengths.push_back(static_cast<int32_t>(document.size()));
  const auto order = aspis::data::megatron_order(lengths, 6, 11, 1234);
  Ids stream;
  for (const int32_t d : order.document_index) {
    stream.insert(stream.end(), documents[d].begin(), documents[d].end());
  }
  for (int64_t i = 0; i < order.samples(); ++i) {
    const auto begin = stream.begin() + 6 * order.shuffle_index[i];
    const Batch batch = loader.next(), unmasked = plain.next();
    CHECK(row_of(batch.tokens, 0) == Ids(begin, begin + 6));
    CHECK(row_of(unmasked.targets, 0) == Ids(begin + 1, begin + 7));
    CHECK_FALSE(unmasked.seq_idx);
    int64_t document = 0;
    for (int64_t j = 0; j < 6; ++j) {
      if (j > 0 && begin[j - 1] == kEnd) ++document;
      CHECK(row_of(*batch.seq_idx, 0)[j] == document);
      CHECK(row_of(batch.targets, 0)[j] == (begin[j] == kEnd ? kNoTarget : begin[j + 1]));
    }
    CHECK(batch.real_tokens == 6);
  }
  CHECK(message_of([&] { loader.next(); }) ==
        scratch.path("t") + ": order megatron was built for " + std::to_string(order.samples()) +
            " samples, all of which are used");
}

TEST_CASE("loader: messages") {
  const Scratch scratch;
  const std::string t = write_shard(scratch, "t", documents_of_lengths({3, 4}));  // 9 tokens
  const auto message = [&](auto change) {
    DataConfig config = config_for({t}, 4);
    LoaderOptions options = options_for(1);
    change(config, options);
    return message_of([&] { Loader loader(config, options); });
  };
  CHECK(message([](auto& c, auto&) { c.train.clear(); }) == "data.train: no training shard named");
  CHECK(message([&](auto& c, auto&) { c.train[0].path += "x"; }) == t + "x.idx: no such file");
  CHECK(message([&](auto& c, auto&) { c.seq_len = 9; }) ==
        "data.seq_len 9 needs at least 10 tokens, " + t + " has 9");
  CHECK(Loader(config_for({t}, 8), options_for(1)).tokens_per_epoch() == 9);  // just long enough
  CHECK(message([&](auto&, auto& o) { o.vocab_size = 999; }) ==
        t + ".bin: token 3 of sequence 0 is 999, the vocabulary has ids 0 .. 998");
  CHECK(message([&](auto& c, auto&) { c.order = "megatron"; }) ==
        "data.end_of_document: order megatron with reset_state_at_document needs the id, and no "
        "description lies beside " +
            t);
  CHECK(message([&](auto& c, auto& o) {
          c.order = "megatron";
          o.seed = uint64_t{1} << 32;
        }) == "train.seed_data: order megatron needs a seed below 4294967296, got 4294967296");
  const auto validation = [&](const std::string& prefix, int64_t max_tokens = 0) {
    DataConfig config = config_for({t}, 4);
    config.validation = prefix;
    return message_of([&] { ValidationRows rows(config, 1000, max_tokens); });
  };
  CHECK(validation("") == "data.validation: no validation shard named");
  CHECK(validation(t + "_validation") == t + "_validation.idx: no such file");
  CHECK(validation(t, 1) == "eval.max_tokens: at least 2 (0: all), got 1");
  CHECK(validation(write_shard(scratch, "short", {{1}})) ==
        scratch.path("short") + ".bin: holds 1 tokens, validation needs at least 2");
  CHECK(message([&](auto& c, auto&) { c.train[0].path = write_shard(scratch, "none", {}); }) ==
        scratch.path("none") + ".bin: holds no tokens");
}

TEST_CASE("loader: a position of other data or another order is refused") {
  const Scratch scratch;
  const std::string a = write_shard(scratch, "a", documents_of_lengths({3, 1, 5, 2, 8, 4}));
  const std::string b = write_shard(scratch, "b", documents_of_lengths({3, 1, 5, 2, 9, 4}));
  DataConfig config = config_for({a}, 4);
  Loader loader(config, options_for(2));
  take(loader, 3);
  const Json position = loader.position();
  const auto refused = [&](const DataConfig& other, const LoaderOptions& options) {
    Loader wrong(other, options);
    return message_of([&] { wrong.restore(position); });
  };
  CHECK(refused(config, options_for(2, 5)) == "data position: seed was 1, now it is 5");
  CHECK(refused(config_for({a}, 5), options_for(2)) == "data position: seq_len was 4, now it is 5");
  CHECK(refused(config_for({a, b}, 4), options_for(2)) ==
        "data position: there were 1 training shards, now there are 2");
  CHECK(refused(config_for({b}, 4), options_for(2)) ==
        "data position: tokens of shard " + b + " was 29, now it is 30");
  DataConfig megatron = config;
  megatron.order = "megatron";
  megatron.end_of_document = kEnd;
  CHECK(refused(megatron, options_for(2)) ==
        "data position: order was \"packed\", now it is \"megatron\"");
  // The same shard elsewhere is the same data; damaged positions are refused and change nothing.
  std::filesystem::copy_file(a + ".bin", scratch.path("moved.bin"));
  std::filesystem::copy_file(a + ".idx", scratch.path("moved.idx"));
  Loader moved(config_for({scratch.path("moved")}, 4), options_for(2));
  moved.restore(position);
  CHECK(take(moved, 2) == take(loader, 2));
  const std::string here = moved.position().dump();
  Json damaged = position;
  damaged["rows"] = 7;
  CHECK(message_of([&] { moved.restore(damaged); }) ==
        "data position: rows 7 is not the sum over the shards");
  damaged["datasets"][0]["row"] = 100;
  CHECK(message_of([&] { moved.restore(damaged); }) ==
        "data position: epoch 0, row 100 does not exist in " + scratch.path("moved"));
  damaged.erase("seed");
  CHECK(message_of([&] { moved.restore(damaged); }).find("data position: cannot be read: ") == 0);
  CHECK(moved.position().dump() == here);
}

TEST_CASE("loader: shards of prepare, order megatron finds the end of a document by itself") {
  const Scratch scratch;
  aspis::data::PrepareOptions options;
  options.globs = {ASPIS_SOURCE_DIR "/csrc/data/*.h"};
  options.prefix = scratch.path("set");
  options.validation_share = 0.2;
  const ShardInfo info = prepare(options);
  DataConfig config = config_for({options.prefix + "_train"}, 64);
  config.validation = options.prefix + "_validation";
  config.order = "megatron";
  LoaderOptions loading = options_for(4);
  loading.vocab_size = 257;
  Loader loader(config, loading);
  CHECK(loader.describe().find("1 shard, ") == 0);
  for (int i = 0; i < 20; ++i) {
    const Batch batch = loader.next();
    CHECK(batch.tokens.sizes() == at::IntArrayRef({4, 64}));
    // A new document exactly behind each end.
    const auto rows = rows_of(batch);
    for (const Row& row : rows) {
      for (int64_t j = 1; j < 64; ++j) {
        CHECK((row.seq_idx[j] != row.seq_idx[j - 1]) == (row.tokens[j - 1] == 256));
      }
    }
  }
  CHECK(ValidationRows(config, 257).tokens() == info.validation.tokens);
}

TEST_CASE("data config: read, written and refused") {
  const auto read = [](const std::string& text) {
    DataConfig config;
    aspis::config::read(aspis::config::parse_json_text(text, "a.json"), "a.json", config, "data");
    return config;
  };
  const DataConfig config = read(
      R"({"train": [{"path": "x", "weight": 2}, {"path": "y"}], "validation": "v", "seq_len": 64})");
  REQUIRE(config.train.size() == 2);
  CHECK(config.train[0].weight == 2.0);
  CHECK(config.train[1].weight == 1.0);
  CHECK(config.order == "packed");
  CHECK(config.reset_state_at_document);
  Json once, twice;
  aspis::config::write(config, once);
  aspis::config::write(read(once.dump()), twice);
  CHECK(once.dump() == twice.dump());
  CHECK(message_of([&] { read(R"({"train": [{"weight": 1}]})"); }) ==
        "a.json: data.train[0].path: missing: this key has no default");
  CHECK(message_of([&] { read(R"({"train": [{"path": "x", "weight": 0}]})"); }) ==
        "a.json: data.train[0].weight: must be larger than 0");
  CHECK(message_of([&] { read(R"({"seq_len": 0})"); }).find("a.json: data.seq_len: expected") == 0);
  CHECK(message_of([&] { read(R"({"order": "random"})"); }) ==
        "a.json: data.order: expected one of \"packed\", \"megatron\", got \"random\"");
}
