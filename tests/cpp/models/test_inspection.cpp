#include "models/inspection.h"

#include <nlohmann/json.hpp>

#include "support/catch.h"

using namespace aspis::models;

namespace {

ModelConfig file(const std::string& name) {
  return load_model_config(ASPIS_SOURCE_DIR "/configs/models/" + name + ".json");
}

const InspectionRow& row(const Inspection& inspection, const std::string& letter) {
  for (const InspectionRow& candidate : inspection.rows) {
    if (candidate.letter == letter) return candidate;
  }
  FAIL("no row " << letter);
  return inspection.rows[0];
}

int64_t parameters(const std::string& letter, int64_t d_model, int64_t layers, int64_t vocab_size) {
  const std::string text = R"({"d_model": )" + std::to_string(d_model) + R"(, "vocab_size": )" +
                           std::to_string(vocab_size) +
                           R"(, "tie_embeddings": true, "layer_pattern": ")" +
                           std::string(static_cast<size_t>(layers), letter[0]) + "\"}";
  return inspect(parse_model_config(text, "a.json")).total.parameters;
}

}  // namespace

TEST_CASE("inspection: the study's models have the published numbers of parameters") {
  CHECK(inspect(file("study_transformer_8b")).total.parameters == 8540135424);
  CHECK(inspect(file("study_mamba_8b")).total.parameters == 8148783104);
  CHECK(inspect(file("study_mamba2_8b")).total.parameters == 8236999680);
  const Inspection hybrid = inspect(file("study_hybrid_8b"));
  CHECK(hybrid.total.parameters == 8654517248);
  CHECK(row(hybrid, "M").count == 24);
  CHECK(row(hybrid, "*").count == 4);
  CHECK(row(hybrid, "-").count == 28);
  CHECK(row(hybrid, "M").parameters == 24 * int64_t{109640064});
  CHECK(row(hybrid, "*").parameters == 4 * int64_t{41947136});
  CHECK(row(hybrid, "-").parameters == 28 * int64_t{134221824});
  CHECK(hybrid.rows.front().parameters + hybrid.rows.back().parameters == 2097152000);
  CHECK(hybrid.rows[hybrid.rows.size() - 2].parameters == 4096);
}

TEST_CASE("inspection: the released Mamba models have their numbers of parameters") {
  CHECK(inspect(file("mamba_130m")).total.parameters == 129135360);
  CHECK(inspect(file("mamba2_130m")).total.parameters == 128989632);
  CHECK(parameters("m", 1024, 48, 50280) == 371516416);
  CHECK(parameters("m", 1536, 48, 50280) == 793204224);
  CHECK(parameters("m", 2048, 48, 50280) == 1372178432);
  CHECK(parameters("m", 2560, 64, 50280) == 2768345600);
  CHECK(parameters("M", 1024, 48, 50288) == 368346624);
  CHECK(parameters("M", 1536, 48, 50288) == 780161280);
  CHECK(parameters("M", 2048, 48, 50288) == 1343757312);
  CHECK(parameters("M", 2560, 64, 50288) == 2702599680);
}

TEST_CASE("inspection: FLOPs per token by Megatron's hybrid formula at sequence 4096") {
  const Inspection hybrid = inspect(file("study_hybrid_8b"));
  CHECK(row(hybrid, "*").forward_flops_per_token == 4 * 117440512.0);
  CHECK(row(hybrid, "-").forward_flops_per_token == 28 * 268435456.0);
  CHECK(row(hybrid, "M").forward_flops_per_token == 24 * 226492416.0);
  CHECK(hybrid.rows.back().forward_flops_per_token == 2097152000.0);
  CHECK(hybrid.total.forward_flops_per_token == 15518924800.0);
  CHECK(hybrid.training_flops_per_token == 46556774400.0);
  const Inspection transformer = inspect(file("study_transformer_8b"));
  CHECK(row(transformer, "*").forward_flops_per_token == 32 * 167772160.0);
  CHECK(transformer.total.forward_flops_per_token == 16055795712.0);
  CHECK(transformer.training_flops_per_token == 48167387136.0);
  const Inspection mamba2 = inspect(file("study_mamba2_8b"));
  CHECK(mamba2.total.forward_flops_per_token == 14780727296.0);
  CHECK(mamba2.training_flops_per_token == 44342181888.0);
  // Attention grows with the context, the rest does not.
  const Inspection longer = inspect(file("study_hybrid_8b"), {.seq_len = 8192});
  CHECK(longer.total.forward_flops_per_token - hybrid.total.forward_flops_per_token ==
        4 * 2.0 * 4096 * 4096);
}

TEST_CASE("inspection: cache sizes per token and per sequence") {
  const Inspection transformer = inspect(file("study_transformer_8b"));
  CHECK(transformer.total.cache_bytes_per_token == 524288);
  CHECK(transformer.total.state_bytes_per_sequence == 0);
  const Inspection hybrid = inspect(file("study_hybrid_8b"));
  CHECK(hybrid.total.cache_bytes_per_token == 16384);
  // The SSM states alone in float32 (100.7 MB), and the windows of the convolutions in bf16: width
  // - 1 inputs of 10240 channels are kept.
  const int64_t states =
      inspect(file("study_hybrid_8b"), {.kv_bytes = 0}).total.state_bytes_per_sequence;
  CHECK(states == 24 * 128 * 64 * 128 * int64_t{4});
  CHECK(hybrid.total.state_bytes_per_sequence - states == 24 * 10240 * 3 * 2);
  // States in bf16 too: 52.3 MB with the fourth input of each window that the study counts.
  const Inspection half = inspect(file("study_hybrid_8b"), {.state_bytes = 2});
  CHECK(half.total.state_bytes_per_sequence + 24 * 10240 * 2 == 52297728);
}

TEST_CASE("inspection: text and JSON carry the figures") {
  const Inspection hybrid = inspect(file("study_hybrid_8b"));
  const std::string text = inspection_text(hybrid);
  for (const char* part :
       {"8,654,517,248", "M mamba2", "16,384", "15,518,924,800", "46,556,774,400",
        "Megatron-LM's hybrid formula", "sequence length 4,096"}) {
    INFO(text);
    CHECK(text.find(part) != std::string::npos);
  }
  aspis::config::Json json;
  inspection_json(hybrid, json);
  CHECK(json["parameters"] == 8654517248);
  CHECK(json["cache_bytes_per_token"] == 16384);
  CHECK(json["training_flops_per_token"] == 46556774400);
  CHECK(json["pattern"].get<std::string>().size() == 56);
  int64_t sum = 0;
  for (const auto& item : json["rows"]) {
    sum += item["parameters"].get<int64_t>();
    CHECK(item["share"].get<double>() == item["parameters"].get<double>() / 8654517248.0);
  }
  CHECK(sum == 8654517248);
  CHECK(inspect(file("mamba_130m")).rows.back().name == "head (tied)");
  CHECK(inspect(file("mamba_130m")).rows.back().parameters == 0);
}

TEST_CASE("inspection: the ops that training calls, each once") {
  const auto ops = inspect(file("study_hybrid_8b")).ops;
  CHECK(ops == std::vector<std::string>{"rms_norm", "add_rms_norm", "causal_conv1d", "ssd",
                                        "gated_rms_norm", "linear_cross_entropy"});
}
