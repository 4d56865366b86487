#include "data/loader.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "core/error.h"
#include "data/indexed_dataset.h"
#include "data/number_text.h"
#include "data/packed_stream.h"
#include "data/sample_order.h"
#include "data/shard_info.h"

namespace aspis::data {
namespace {

using config::Json;

// One training shard in its own order: sample n, for n = 0, 1, 2 ...
class Source {
 public:
  explicit Source(IndexedDataset set) : set_(std::move(set)) {}
  virtual ~Source() = default;

  const IndexedDataset& set() const { return set_; }
  virtual int64_t rows_per_epoch() const = 0;
  virtual int64_t fill(int64_t sample, const RowView& view, std::vector<int64_t>& starts) = 0;
  // What the order depends on beside seed and seq_len.
  virtual void describe_order(Json&) const {}

 private:
  IndexedDataset set_;
};

class PackedSource : public Source {
 public:
  PackedSource(IndexedDataset set, int64_t seq_len, uint64_t seed)
      : Source(std::move(set)), seq_len_(seq_len), seed_(seed) {}

  int64_t rows_per_epoch() const override {
    return PackedStream::rows_of(set().tokens(), seq_len_);
  }
  int64_t fill(int64_t sample, const RowView& view, std::vector<int64_t>& starts) override {
    const int64_t epoch = sample / rows_per_epoch();
    if (epoch != epoch_) {
      stream_ = std::make_unique<PackedStream>(
          set(), epoch_permutation(set().documents(), seed_, epoch), seq_len_);
      epoch_ = epoch;
    }
    return stream_->fill(sample % rows_per_epoch(), view, starts);
  }

 private:
  int64_t seq_len_;
  uint64_t seed_;
  int64_t epoch_ = -1;  // of stream_
  std::unique_ptr<PackedStream> stream_;
};

class MegatronSource : public Source {
 public:
  // `end_of_document` is looked at where seq_idx is wanted.
  MegatronSource(IndexedDataset set, int64_t seq_len, uint32_t seed, int64_t samples,
                 int64_t end_of_document)
      : Source(std::move(set)), seq_len_(seq_len), end_of_document_(end_of_document) {
    std::vector<int32_t> lengths(static_cast<size_t>(this->set().sequences()));
    for (size_t i = 0; i < lengths.size(); ++i) {
      lengths[i] = static_cast<int32_t>(this->set().length(static_cast<int64_t>(i)));
    }
    order_ = megatron_order(lengths, seq_len, samples, seed);
  }

  int64_t rows_per_epoch() const override {
    return std::max<int64_t>(1, (set().tokens() - 1) / seq_len_);
  }
  void describe_order(Json& json) const override {
    json["epochs_built"] = order_.epochs;
    json["separate_last_epoch"] = order_.separate_last_epoch;
  }

  int64_t fill(int64_t sample, const RowView& view, std::vector<int64_t>& starts) override {
    if (sample >= order_.samples()) {
      throw DataError(set().prefix() + ": order megatron was built for " +
                      std::to_string(order_.samples()) + " samples, all of which are used");
    }
    std::vector<int64_t> ids(static_cast<size_t>(seq_len_ + 1));
    read(order_.sample_index[order_.shuffle_index[sample]], ids);
    int32_t document = 0;
    for (int64_t i = 0; i < seq_len_; ++i) {
      view.tokens[i] = ids[i];
      view.targets[i] = ids[i + 1];
      if (view.seq_idx.empty()) continue;
      view.seq_idx[i] = document;
      if (i > 0 && ids[i - 1] == end_of_document_) starts.push_back(i);
      if (ids[i] == end_of_document_) {
        ++document;
        view.targets[i] = kNoTarget;
      }
    }
    return seq_len_;
  }

 private:
  void read(MegatronOrder::Place place, std::span<int64_t> ids) const {
    for (size_t done = 0; done < ids.size(); ++place.document, place.offset = 0) {
      const int64_t sequence = order_.document_index[place.document];
      const auto left = static_cast<size_t>(set().length(sequence) - place.offset);
      const size_t count = std::min(left, ids.size() - done);
      set().read(sequence, place.offset, ids.subspan(done, count));
      done += count;
    }
  }

  int64_t seq_len_;
  int64_t end_of_document_;
  MegatronOrder order_;
};

// Tensors of a batch and the views of their rows.
struct BatchBuilder {
  BatchBuilder(int64_t rows, int64_t seq_len, bool with_documents) : seq_len_(seq_len) {
    batch.tokens = at::empty({rows, seq_len}, at::kLong);   // (b, l)
    batch.targets = at::empty({rows, seq_len}, at::kLong);  // (b, l)
    if (with_documents) batch.seq_idx = at::empty({rows, seq_len}, at::kInt);
  }

  // fill(view, starts) fills row `row`.
  template <typename Fill>
  void add(int64_t row, Fill&& fill) {
    const auto size = static_cast<size_t>(seq_len_);
    RowView view{{batch.tokens.mutable_data_ptr<int64_t>() + row * seq_len_, size},
                 {batch.targets.mutable_data_ptr<int64_t>() + row * seq_len_, size},
                 {}};
    if (batch.seq_idx) {
      view.seq_idx = {batch.seq_idx->mutable_data_ptr<int32_t>() + row * seq_len_, size};
    }
    const size_t before = batch.document_starts.size();
    batch.real_tokens += fill(view, batch.document_starts);
    for (size_t i = before; i < batch.document_starts.size(); ++i) {
      batch.document_starts[i] += row * seq_len_;
    }
  }

  Batch batch;

 private:
  int64_t seq_len_;
};

int64_t end_of_document_id(const DataConfig& config, const std::string& prefix) {
  if (config.end_of_document) return *config.end_of_document;
  const auto info = read_shard_info(prefix);
  if (!info) {
    throw ConfigError(
        "data.end_of_document: order megatron with reset_state_at_document needs the id, and no "
        "description lies beside " +
            prefix,
        "set data.end_of_document, or data.reset_state_at_document to false");
  }
  return info->end_of_document;
}

IndexedDataset open_shard(const std::string& prefix, int64_t vocab_size) {
  IndexedDataset set(prefix);
  set.check_vocabulary(vocab_size);
  return set;
}

}  // namespace

struct Loader::Parts {
  Parts(const DataConfig& config_, const LoaderOptions& options_)
      : config(config_), options(options_), blend(weights_of(config_)) {
    if (options.rows < 1 || options.vocab_size < 1 || options.world < 1 || options.rank < 0 ||
        options.rank >= options.world) {
      throw std::invalid_argument("Loader: rows, vocab_size, rank and world must make sense");
    }
    for (size_t i = 0; i < config.train.size(); ++i) open(i);
  }

  static std::vector<double> weights_of(const DataConfig& config) {
    if (config.train.empty()) {
      throw ConfigError("data.train: no training shard named",
                        "for example \"train\": [{\"path\": \"data/stdlib_train\"}]; `aspis "
                        "prepare` writes shards from text files");
    }
    std::vector<double> weights;
    for (const ShardSource& source : config.train) weights.push_back(source.weight);
    return weights;
  }

  void open(size_t i) {
    const std::string& prefix = config.train[i].path;
    IndexedDataset set = open_shard(prefix, options.vocab_size);
    if (set.tokens() == 0) throw DataError(prefix + ".bin: holds no tokens");
    if (set.tokens() < config.seq_len + 1) {
      throw DataError("data.seq_len " + std::to_string(config.seq_len) + " needs at least " +
                          std::to_string(config.seq_len + 1) + " tokens, " + prefix + " has " +
                          std::to_string(set.tokens()),
                      "shorten data.seq_len or prepare more text");
    }
    if (config.order == "packed") {
      sources.push_back(
          std::make_unique<PackedSource>(std::move(set), config.seq_len, options.seed));
      return;
    }
    if (options.seed > UINT32_MAX) {
      throw ConfigError("train.seed_data: order megatron needs a seed below 4294967296, got " +
                        std::to_string(options.seed));
    }
    if (options.samples < 1) {
      throw std::invalid_argument("Loader: order megatron needs the number of samples");
    }
    // A blend takes a little more of each than its share, as its choices do not round.
    const int64_t samples = config.train.size() == 1
                                ? options.samples
                                : blended_samples(options.samples, blend.shares()[i]);
    const int64_t end =
        config.reset_state_at_document ? end_of_document_id(config, prefix) : int64_t{-1};
    sources.push_back(std::make_unique<MegatronSource>(
        std::move(set), config.seq_len, static_cast<uint32_t>(options.seed), samples, end));
  }

  int64_t rows_per_epoch() const {
    int64_t rows = 0;
    for (const auto& source : sources) rows += source->rows_per_epoch();
    return rows;
  }

  // What must agree for a position to mean the same rows.
  Json identity() const {
    Json json;
    json["order"] = config.order;
    json["seq_len"] = config.seq_len;
    json["seed"] = options.seed;
    json["datasets"] = Json::array();
    for (size_t i = 0; i < sources.size(); ++i) {
      Json set;
      set["weight"] = config.train[i].weight;
      set["documents"] = sources[i]->set().documents();
      set["tokens"] = sources[i]->set().tokens();
      sources[i]->describe_order(set);
      json["datasets"].push_back(set);
    }
    return json;
  }

  DataConfig config;
  LoaderOptions options;
  Blend blend;
  std::vector<std::unique_ptr<Source>> sources;
};

Loader::Loader(const DataConfig& config, const LoaderOptions& options)
    : parts_(std::make_unique<Parts>(config, options)) {}
Loader::~Loader() = default;
Loader::Loader(Loader&&) noexcept = default;
Loader& Loader::operator=(Loader&&) noexcept = default;

Batch Loader::next() {
  Parts& p = *parts_;
  BatchBuilder builder(p.options.rows, p.config.seq_len, p.config.reset_state_at_document);
  // A batch is taken whole or not at all.
  Blend blend = p.blend;
  for (int64_t i = 0; i < p.options.rows * p.options.world; ++i) {
    const Blend::Choice choice = blend.next();
    if (i / p.options.rows != p.options.rank) continue;
    builder.add(i % p.options.rows, [&](const RowView& view, std::vector<int64_t>& starts) {
      return p.sources[choice.set]->fill(choice.sample, view, starts);
    });
  }
  p.blend = std::move(blend);
  return std::move(builder.batch);
}

config::Json Loader::position() const {
  const Parts& p = *parts_;
  Json json = p.identity();
  json["rows"] = p.blend.steps();
  for (size_t i = 0; i < p.sources.size(); ++i) {
    const int64_t used = p.blend.used()[i], per_epoch = p.sources[i]->rows_per_epoch();
    Json& set = json["datasets"][i];
    set["path"] = p.config.train[i].path;
    set["epoch"] = used / per_epoch;
    set["row"] = used % per_epoch;
  }
  return json;
}

void Loader::restore(const config::Json& position) {
  Parts& p = *parts_;
  const auto fail = [](const std::string& message) {
    throw DataError("data position: " + message,
                    "a run goes on only with the data it began with; start a new run folder");
  };
  const Json identity = p.identity();
  try {
    for (const char* key : {"order", "seq_len", "seed"}) {
      if (position.at(key) != identity.at(key)) {
        fail(std::string(key) + " was " + position.at(key).dump() + ", now it is " +
             identity.at(key).dump());
      }
    }
    const Json& sets = position.at("datasets");
    if (sets.size() != p.sources.size()) {
      fail("there were " + std::to_string(sets.size()) + " training shards, now there are " +
           std::to_string(p.sources.size()));
    }
    std::vector<int64_t> used;
    for (size_t i = 0; i < sets.size(); ++i) {
      for (const auto& [key, now] : identity["datasets"][i].items()) {
        if (sets[i].at(key) != now) {
          fail(key + " of shard " + p.config.train[i].path + " was " + sets[i].at(key).dump() +
               ", now it is " + now.dump());
        }
      }
      const auto epoch = sets[i].at("epoch").get<int64_t>();
      const auto row = sets[i].at("row").get<int64_t>();
      if (epoch < 0 || row < 0 || row >= p.sources[i]->rows_per_epoch()) {
        fail("epoch " + std::to_string(epoch) + ", row " + std::to_string(row) +
             " does not exist in " + p.config.train[i].path);
      }
      used.push_back(epoch * p.sources[i]->rows_per_epoch() + row);
    }
    const auto rows = position.at("rows").get<int64_t>();
    if (rows != std::accumulate(used.begin(), used.end(), int64_t{0})) {
      fail("rows " + std::to_string(rows) + " is not the sum over the shards");
    }
    p.blend.restore(std::move(used));
  } catch (const nlohmann::json::exception& error) {
    fail(std::string("cannot be read: ") + error.what());
  }
}

int64_t Loader::rows_taken() const {
  return parts_->blend.steps();
}

int64_t Loader::tokens_per_epoch() const {
  int64_t tokens = 0;
  for (const auto& source : parts_->sources) tokens += source->set().tokens();
  return tokens;
}

double Loader::epochs() const {
  return static_cast<double>(rows_taken()) / static_cast<double>(parts_->rows_per_epoch());
}

std::string Loader::describe() const {
  const auto shards = static_cast<int64_t>(parts_->sources.size());
  return grouped(shards) + (shards == 1 ? " shard, " : " shards, ") + grouped(tokens_per_epoch()) +
         " tokens, " + grouped(parts_->rows_per_epoch()) + " rows of " +
         std::to_string(parts_->config.seq_len) + " per epoch, order " + parts_->config.order;
}

struct ValidationRows::Parts {
  PackedStream stream;
  int64_t seq_len;
  bool with_documents;
};

namespace {

PackedStream open_validation(const DataConfig& config, int64_t vocab_size, int64_t max_tokens) {
  if (config.validation.empty()) {
    throw DataError("data.validation: no validation shard named",
                    "`aspis prepare` writes PREFIX_validation beside PREFIX_train");
  }
  if (max_tokens == 1 || max_tokens < 0) {
    throw ConfigError("eval.max_tokens: at least 2 (0: all), got " + std::to_string(max_tokens));
  }
  IndexedDataset set = open_shard(config.validation, vocab_size);
  std::vector<int64_t> documents(static_cast<size_t>(set.documents()));
  std::iota(documents.begin(), documents.end(), int64_t{0});
  PackedStream stream(std::move(set), documents, config.seq_len, max_tokens);
  if (stream.rows() == 0) {
    throw DataError(config.validation + ".bin: holds " + std::to_string(stream.tokens()) +
                    " tokens, validation needs at least 2");
  }
  return stream;
}

}  // namespace

ValidationRows::ValidationRows(const DataConfig& config, int64_t vocab_size, int64_t max_tokens)
    : parts_(new Parts{open_validation(config, vocab_size, max_tokens), config.seq_len,
                       config.reset_state_at_document}) {}
ValidationRows::~ValidationRows() = default;
ValidationRows::ValidationRows(ValidationRows&&) noexcept = default;
ValidationRows& ValidationRows::operator=(ValidationRows&&) noexcept = default;

int64_t ValidationRows::rows() const {
  return parts_->stream.rows();
}

int64_t ValidationRows::tokens() const {
  return parts_->stream.tokens();
}

Batch ValidationRows::batch(int64_t first, int64_t count) const {
  if (first < 0 || first >= rows() || count < 1) {
    throw std::out_of_range("ValidationRows::batch: rows " + std::to_string(first) + " .. " +
                            std::to_string(first + count) + " of " + std::to_string(rows()));
  }
  count = std::min(count, rows() - first);
  BatchBuilder builder(count, parts_->seq_len, parts_->with_documents);
  for (int64_t row = 0; row < count; ++row) {
    builder.add(row, [&](const RowView& view, std::vector<int64_t>& starts) {
      return parts_->stream.fill(first + row, view, starts);
    });
  }
  return std::move(builder.batch);
}

}  // namespace aspis::data
