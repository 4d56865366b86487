#include "models/inspection.h"

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "models/language_model.h"

namespace aspis::models {

using config::Json;

namespace {

constexpr const char* kFormula =
    "Megatron-LM's hybrid formula (2 per multiply-add of the matrices, 7 per channel and state of "
    "a scan, "
    "attention over the mean causal context), training = 3 x forward";

void add_to(InspectionRow& sum, const InspectionRow& row) {
  sum.count += row.count;
  sum.parameters += row.parameters;
  sum.state_bytes_per_sequence += row.state_bytes_per_sequence;
  sum.cache_bytes_per_token += row.cache_bytes_per_token;
  sum.forward_flops_per_token += row.forward_flops_per_token;
}

// 1234567 -> "1,234,567"
std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return digits;
}

std::string grouped(double value) {
  return grouped(static_cast<int64_t>(value));
}

Json row_json(const InspectionRow& row) {
  Json out;
  out["letter"] = row.letter;
  out["name"] = row.name;
  out["count"] = row.count;
  out["parameters"] = row.parameters;
  out["share"] = row.share;
  out["state_bytes_per_sequence"] = row.state_bytes_per_sequence;
  out["cache_bytes_per_token"] = row.cache_bytes_per_token;
  out["forward_flops_per_token"] = static_cast<int64_t>(row.forward_flops_per_token);
  return out;
}

}  // namespace

Inspection inspect(const ModelConfig& config, const InspectionOptions& options) {
  const LanguageModel model(config, at::TensorOptions().device("meta").dtype(at::kFloat));
  Inspection out;
  out.options = options;
  out.pattern = config.letters();
  out.d_model = config.d_model;
  out.vocab_size = config.vocab_size;
  out.ops = model.ops_used();
  out.flops_formula = kFormula;

  InspectionRow embedding{.name = "embedding"}, norm{.name = "final norm"};
  InspectionRow head{.name = config.tie_embeddings ? "head (tied)" : "head"};
  head.forward_flops_per_token =
      2.0 * static_cast<double>(config.d_model) * static_cast<double>(config.vocab_size);
  std::vector<InspectionRow> kinds;
  std::vector<size_t> kind_of_layer;
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const std::string letter(1, config.layers[i].letter);
    size_t k = 0;
    while (k < kinds.size() && kinds[k].letter != letter) ++k;
    if (k == kinds.size()) {
      kinds.push_back({.letter = letter, .name = nn::find_mixer_kind(letter[0])->name});
    }
    const nn::MixerFacts facts =
        model.layer_facts(i, options.seq_len, options.kv_bytes, options.state_bytes);
    kinds[k].count += 1;
    kinds[k].state_bytes_per_sequence += facts.state_bytes_per_sequence;
    kinds[k].cache_bytes_per_token += facts.cache_bytes_per_token;
    kinds[k].forward_flops_per_token += facts.forward_flops_per_token;
    kind_of_layer.push_back(k);
  }
  for (const nn::NamedParameter& parameter : model.parameters()) {
    const std::string prefix = "layers.";
    InspectionRow* row = &head;
    if (parameter.name.rfind(prefix, 0) == 0) {
      row = &kinds[kind_of_layer[std::stoul(parameter.name.substr(prefix.size()))]];
    } else if (parameter.name.rfind("embedding.", 0) == 0) {
      row = &embedding;
    } else if (parameter.name.rfind("norm_f.", 0) == 0) {
      row = &norm;
    }
    row->parameters += parameter.tensor.numel();
  }

  out.rows.push_back(embedding);
  out.rows.insert(out.rows.end(), kinds.begin(), kinds.end());
  out.rows.push_back(norm);
  out.rows.push_back(head);
  out.total.name = "total";
  for (const InspectionRow& row : out.rows) add_to(out.total, row);
  out.total.share = 1.0;
  for (InspectionRow& row : out.rows) {
    row.share = static_cast<double>(row.parameters) / static_cast<double>(out.total.parameters);
  }
  out.training_flops_per_token = 3 * out.total.forward_flops_per_token;
  return out;
}

std::string inspection_text(const Inspection& inspection) {
  const std::vector<std::string> headings = {"kind",       "layers",          "parameters",
                                             "share",      "state bytes/seq", "cache bytes/token",
                                             "FLOPs/token"};
  std::vector<std::vector<std::string>> cells = {headings};
  const auto add_row = [&](const InspectionRow& row) {
    std::ostringstream share;
    share << std::fixed << std::setprecision(1) << 100 * row.share << "%";
    cells.push_back({(row.letter.empty() ? "" : row.letter + " ") + row.name,
                     row.count > 0 ? std::to_string(row.count) : "", grouped(row.parameters),
                     share.str(), grouped(row.state_bytes_per_sequence),
                     grouped(row.cache_bytes_per_token), grouped(row.forward_flops_per_token)});
  };
  for (const InspectionRow& row : inspection.rows) add_row(row);
  add_row(inspection.total);

  std::vector<size_t> widths(headings.size());
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::ostringstream out;
  out << "pattern " << inspection.pattern << "\nd_model " << inspection.d_model << ", vocabulary "
      << grouped(inspection.vocab_size) << "\n\n";
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      out << (i == 0 ? "" : "  ") << (i == 0 ? row[i] + padding : padding + row[i]);
    }
    out << "\n";
  }
  const InspectionOptions& o = inspection.options;
  out << "\nCache: " << o.kv_bytes << " bytes per element of keys, values and conv windows, "
      << o.state_bytes << " per element of SSM states.\n"
      << "FLOPs per token at sequence length " << grouped(o.seq_len) << ": forward "
      << grouped(inspection.total.forward_flops_per_token) << ", training "
      << grouped(inspection.training_flops_per_token) << "; " << inspection.flops_formula << ".\n";
  return out.str();
}

void inspection_json(const Inspection& inspection, Json& out) {
  out = Json::object();
  out["pattern"] = inspection.pattern;
  out["layers"] = inspection.pattern.size();
  out["d_model"] = inspection.d_model;
  out["vocab_size"] = inspection.vocab_size;
  out["parameters"] = inspection.total.parameters;
  out["state_bytes_per_sequence"] = inspection.total.state_bytes_per_sequence;
  out["cache_bytes_per_token"] = inspection.total.cache_bytes_per_token;
  out["forward_flops_per_token"] = static_cast<int64_t>(inspection.total.forward_flops_per_token);
  out["training_flops_per_token"] = static_cast<int64_t>(inspection.training_flops_per_token);
  out["flops_formula"] = inspection.flops_formula;
  out["seq_len"] = inspection.options.seq_len;
  out["kv_bytes"] = inspection.options.kv_bytes;
  out["state_bytes"] = inspection.options.state_bytes;
  out["ops"] = inspection.ops;
  out["rows"] = Json::array();
  for (const InspectionRow& row : inspection.rows) out["rows"].push_back(row_json(row));
}

}  // namespace aspis::models
