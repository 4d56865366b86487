#include "data/shard_info.h"

#include <filesystem>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/number_text.h"

namespace aspis::data {
namespace {

// JSON holds UTF-8 only, names of files may be anything.
std::string json_safe(std::string text) {
  try {
    (void)config::Json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    for (char& c : text) {
      if (static_cast<unsigned char>(c) >= 0x80) c = '?';
    }
  }
  return text;
}

}  // namespace

void fields(config::Fields& f, SplitReport& c) {
  f.integer("documents", c.documents, "Documents.", {.min = 0});
  f.integer("tokens", c.tokens, "Tokens, end-of-document ids included.", {.min = 0});
  f.integer("bytes", c.bytes, "Bytes of text.", {.min = 0});
  f.integer("longest_tokens", c.longest_tokens, "Tokens of the longest document.", {.min = 0});
  f.text("longest_file", c.longest_file, "Its file.");
}

void fields(config::Fields& f, ShardInfo& c) {
  f.require("tokenizer");
  f.text("tokenizer", c.tokenizer, "Name of the tokenizer.");
  f.require("vocab_size");
  f.integer("vocab_size", c.vocab_size, "Ids are 0 .. vocab_size - 1.", {.min = 1});
  f.require("end_of_document");
  f.integer("end_of_document", c.end_of_document, "Id that ends each document.", {.min = 0});
  f.number("validation_share", c.validation_share, "Share of the bytes asked for.",
           {.min = 0.0, .max = 1.0});
  f.integer("seed", c.seed, "Seed of the split.");
  f.integer("files", c.files, "Files found.", {.min = 0});
  f.integer("empty_files", c.empty_files, "Empty files, skipped.", {.min = 0});
  f.integer("duplicate_files", c.duplicate_files, "Files with the content of another one.",
            {.min = 0});
  f.object("train", c.train, "The training shard.");
  f.object("validation", c.validation, "The validation shard.");
  f.texts("validation_files", c.validation_files, "Files held back for validation.");
}

std::string report_text(const ShardInfo& info, const std::string& prefix) {
  std::ostringstream out;
  out << grouped(info.files) << " files: " << grouped(info.empty_files) << " empty (skipped), "
      << grouped(info.duplicate_files) << " with the content of another one\n"
      << "tokenizer " << info.tokenizer << ", vocabulary " << info.vocab_size
      << ", end of document " << info.end_of_document << "\n";
  const double total = static_cast<double>(info.train.bytes + info.validation.bytes);
  const auto line = [&](const char* name, const SplitReport& part) {
    if (part.documents == 0) return;
    out << prefix << "_" << name << ": " << grouped(part.documents) << " documents, "
        << grouped(part.tokens) << " tokens, " << grouped(part.bytes) << " bytes (" << std::fixed
        << std::setprecision(1) << 100.0 * static_cast<double>(part.bytes) / total
        << " %), longest " << grouped(part.longest_tokens) << " tokens (" << part.longest_file
        << ")\n";
  };
  line("train", info.train);
  line("validation", info.validation);
  return out.str();
}

void write_shard_info(const std::string& prefix, const ShardInfo& info) {
  ShardInfo safe = info;
  safe.train.longest_file = json_safe(safe.train.longest_file);
  safe.validation.longest_file = json_safe(safe.validation.longest_file);
  for (std::string& file : safe.validation_files) file = json_safe(file);
  config::Json json;
  config::write(safe, json);
  config::write_text_file(prefix + ".json", config::to_text(json));
}

std::optional<ShardInfo> read_shard_info(const std::string& shard_prefix) {
  for (const std::string suffix : {"_train", "_validation", ""}) {
    if (!shard_prefix.ends_with(suffix)) continue;
    const std::string file = shard_prefix.substr(0, shard_prefix.size() - suffix.size()) + ".json";
    std::error_code error;
    if (!std::filesystem::exists(file, error)) continue;
    ShardInfo info;
    config::read(config::parse_json_file(file), file, info);
    return info;
  }
  return std::nullopt;
}

}  // namespace aspis::data
