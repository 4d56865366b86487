#include "models/model_config.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/language_model.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "support/tolerance.h"

using namespace aspis::models;
using aspis::config::Json;
using aspis::test::message_of;
namespace fs = std::filesystem;

namespace {

ModelConfig read_text(const std::string& text) {
  return parse_model_config(text, "a.json");
}

// The config of a body that comes after the two keys without a default.
ModelConfig read_body(const std::string& body) {
  return read_text(R"({"d_model": 64, "vocab_size": 50, )" + body + "}");
}

Json written(const ModelConfig& config) {
  Json out;
  write_model_config(config, out);
  return out;
}

Json block_json(const LayerSlot& layer) {
  Json out;
  layer.block->write(out);
  return out;
}

std::string hint_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const aspis::Error& error) {
    return error.hint();
  }
  return "";
}

// Every key of `given` has the same value in `all`, at every depth.
void check_contained(const std::string& path, const Json& given, const Json& all) {
  INFO(path);
  if (!given.is_object()) {
    CHECK(given == all);
    return;
  }
  for (const auto& [key, value] : given.items()) {
    REQUIRE(all.contains(key));
    check_contained(path + "." + key, value, all[key]);
  }
}

}  // namespace

TEST_CASE("model config: a pattern as string, list and with overrides") {
  const auto plain = read_body(R"("layer_pattern": "M-M*-")");
  CHECK(plain.letters() == "M-M*-");
  CHECK(written(plain)["layer_pattern"] == "M-M*-");

  const auto list = read_body(
      R"("layer_pattern": ["M", {"type": "M", "d_state": 32}, {"type": "w", "window": 8}, {"type": "-"}],
         "blocks": {"M": {"d_state": 16, "headdim": 32}, "w": {"heads": 4, "window": 5}})");
  CHECK(list.letters() == "MMw-");
  CHECK(block_json(list.layers[0])["d_state"] == 16);
  CHECK(block_json(list.layers[1])["d_state"] == 32);
  CHECK(block_json(list.layers[1])["headdim"] == 32);
  CHECK(block_json(list.layers[2])["window"] == 8);
  CHECK(block_json(list.layers[2])["heads"] == 4);
  CHECK(block_json(list.layers[3])["ratio"] == 4.0);
  const Json pattern = written(list)["layer_pattern"];
  CHECK(pattern.dump() == R"(["M",{"type":"M","d_state":32},{"type":"w","window":8},"-"])");
  CHECK(written(list)["blocks"]["M"]["d_state"] == 16);
}

TEST_CASE("model config: a hybrid with groups, a window and grouped attention builds") {
  const auto config = read_text(R"({"d_model": 512, "vocab_size": 256,
      "layer_pattern": "M-M-M-w-M-M-M*-M-", "pos": "none", "norm": {"type": "rms", "eps": 1e-5},
      "tie_embeddings": false, "blocks": {
        "M": {"d_state": 128, "headdim": 64, "ngroups": 2, "expand": 2, "d_conv": 4, "chunk": 128},
        "*": {"heads": 8, "kv_heads": 2}, "w": {"heads": 8, "kv_heads": 2, "window": 128},
        "-": {"ratio": 4, "act": "gelu"}}})");
  const LanguageModel model(config, at::TensorOptions().device("meta"));
  // Seven Mamba-2 layers, full attention, attention with a window, eight MLPs, the two ends.
  const int64_t mamba =
      512 * (2 * 1024 + 2 * 2 * 128 + 16) + 5 * 1536 + 3 * 16 + 1024 + 1024 * 512 + 512;
  const int64_t attention = 2 * 512 * 512 + 2 * 512 * 128 + 512, mlp = 8 * 512 * 512 + 512;
  CHECK(model.parameter_count() == 7 * mamba + 2 * attention + 8 * mlp + 2 * 256 * 512 + 512);
}

TEST_CASE(
    "model config: layers and ratios give the published pattern and stay as they were given") {
  const auto config = read_body(R"("layers": 24, "attention_ratio": 0.08, "mlp_ratio": 0.5)");
  CHECK(config.letters() == "M-M-M--*M-M-M-M-*M--M-M-");
  const Json json = written(config);
  CHECK(json["layer_pattern"].is_null());
  CHECK(json["layers"] == 24);
  CHECK(written(read_text(json.dump())).dump() == json.dump());
  CHECK(read_body(R"("layers": 3)").letters() == "MMM");
}

TEST_CASE("model config: letters that no layer has are explained and the allowed ones listed") {
  const auto message = [](const std::string& pattern) {
    return message_of([&] { read_body("\"layer_pattern\": \"" + pattern + "\""); });
  };
  CHECK(message("MxM") == "a.json: layer_pattern[1]: unknown letter 'x'");
  CHECK(message("M+M") ==
        "a.json: layer_pattern[1]: unknown letter '+': the paper's letter for an MLP, written - "
        "here; "
        "later Megatron means a kind of attention");
  CHECK(message("ME").find("mixture of experts") != std::string::npos);
  CHECK(message("M|M").find("pipeline segment") != std::string::npos);
  CHECK(message("MM/M").find("prediction head") != std::string::npos);
  CHECK(message("GM").find("gated delta net") != std::string::npos);
  CHECK(message("DM").find("sparse attention") != std::string::npos);
  CHECK(message("hM").find("H3") != std::string::npos);
  CHECK(message("") == "a.json: layer_pattern: empty: a model needs at least one layer");
  CHECK(hint_of([] { read_body(R"("layer_pattern": "Z")"); }) ==
        "allowed letters: * (attention), - (mlp), M (mamba2), m (mamba1), w (window_attention)");
  CHECK(hint_of([] {
          read_body(R"("layer_pattern": "M", "blocks": {"Q": {}})");
        }).find("allowed letters: * (attention)") == 0);
}

TEST_CASE("model config: messages name file, path, what was read and what is allowed") {
  const auto message = [](const std::string& body) { return message_of([&] { read_body(body); }); };
  CHECK(message(R"("layer_patern": "M")") ==
        "a.json: layer_pattern: missing: give a pattern, or layers with attention_ratio and "
        "mlp_ratio");
  CHECK(message(R"("layer_pattern": "M", "tie_embedding": true)") ==
        "a.json: tie_embedding: unknown key (did you mean tie_embeddings?)");
  CHECK(message(R"("layer_pattern": "M", "layers": 3)") ==
        "a.json: layer_pattern: given together with layers or a ratio: only one of the two can "
        "count");
  CHECK(message(R"("attention_ratio": 0.1)") ==
        "a.json: layers: missing: the ratios are shares of this number of layers");
  CHECK(message(R"("layers": 8, "attention_ratio": 0.6, "mlp_ratio": 0.6)") ==
        "a.json: layers: attention_ratio and mlp_ratio must not be negative and must add up to at "
        "most 1");
  CHECK(message(R"("layer_pattern": 3)").find("a.json: layer_pattern: expected a string") == 0);
  CHECK(message(R"("layer_pattern": ["M", 4])")
            .find("a.json: layer_pattern[1]: expected one letter") == 0);
  CHECK(message(R"("layer_pattern": ["M-"])").find("got \"M-\"") != std::string::npos);
  CHECK(message(R"("layer_pattern": ["M", {"d_state": 4}])")
            .find("a.json: layer_pattern[1].type: missing") == 0);
  CHECK(message(R"("layer_pattern": ["M", {"type": "M", "d_stat": 4}])") ==
        "a.json: layer_pattern[1].d_stat: unknown key (did you mean d_state?)");
  CHECK(message(R"("layer_pattern": "M", "blocks": {"M": {"d_stat": 4}})") ==
        "a.json: blocks.M.d_stat: unknown key (did you mean d_state?)");
  CHECK(message(R"("layer_pattern": "M", "blocks": {"M": {"d_state": 1.9}})") ==
        "a.json: blocks.M.d_state: expected an integer >= 1, got 1.9");
  CHECK(message(R"("layer_pattern": "M", "blocks": {"Q": {}})") ==
        "a.json: blocks.Q: no kind of layer has this letter");
  CHECK(message(R"("layer_pattern": "M", "init": "xavier")") ==
        "a.json: init: expected one of \"study\", \"megatron\", \"mamba_ssm\", got \"xavier\"");
  CHECK(message(R"("layer_pattern": "M", "pos": "learned")").find("a.json: pos: expected one of") ==
        0);
  CHECK(message_of([] { read_text(R"({"vocab_size": 3, "layer_pattern": "M"})"); }) ==
        "a.json: d_model: missing: this key has no default");
}

TEST_CASE("model config: limits that need the whole model are named when it is built") {
  const auto message = [](const std::string& body) {
    return message_of([&] { LanguageModel(read_body(body), at::TensorOptions().device("meta")); });
  };
  CHECK(message(R"("layer_pattern": "M*")").find("a.json: blocks.*.heads: missing") == 0);
  CHECK(message(R"("layer_pattern": ["M", {"type": "M", "headdim": 48}])")
            .find("a.json: layer_pattern[1].headdim: 48 must divide") == 0);
}

TEST_CASE("model config: a config inside a run config is named by its path") {
  const auto json = aspis::config::parse_json_text(
      R"({"d_model": 64, "vocab_size": 50, "layer_pattern": "M", "blocks": {"M": {"x": 1}}})",
      "r.json");
  CHECK(message_of([&] {
          resolve_model_config(json, "r.json", "model");
        }).find("r.json: model.blocks.M.x:") == 0);
  CHECK(message_of([] { resolve_model_config(Json(3), "r.json", "model"); }) ==
        "r.json: model: expected the name of a model config or an object, got 3");
}

TEST_CASE("model config: files are found by path and by name in configs/models") {
  const aspis::test::Scratch scratch;
  scratch.write("configs/models/tiny.json",
                R"({"d_model": 64, "vocab_size": 50, "layer_pattern": "MM"})");
  const auto direct =
      scratch.write("here.json", R"({"d_model": 64, "vocab_size": 50, "layer_pattern": "M"})");
  const fs::path before = fs::current_path();
  fs::current_path(scratch.folder());
  const std::string by_name = resolve_model_config("tiny", "r.json", "model").letters();
  const std::string by_file = load_model_config("tiny.json").letters();
  const std::string relative = load_model_config("here.json").letters();
  const std::string missing = message_of([] { load_model_config("gone.json"); });
  fs::current_path(before);
  CHECK(by_name == "MM");
  CHECK(by_file == "MM");
  CHECK(relative == "M");
  CHECK(load_model_config(direct).letters() == "M");
  CHECK(missing == "gone.json: no such model config, neither here nor in configs/models");
}

TEST_CASE(
    "model config: every file in configs/models survives reading, writing and reading again") {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(ASPIS_SOURCE_DIR "/configs/models")) {
    INFO(entry.path());
    const Json given = aspis::config::parse_json_file(entry.path());
    const ModelConfig config = load_model_config(entry.path().string());
    const Json once = written(config);
    check_contained("", given, once);
    const ModelConfig again = read_text(once.dump());
    CHECK(written(again).dump() == once.dump());
    CHECK(again.letters() == config.letters());
    ++files;
  }
  CHECK(files >= 8);
}

TEST_CASE("model config: every key has a line of documentation") {
  for (const auto& row : aspis::config::describe<ModelConfig>("model")) {
    INFO(row.path);
    CHECK(row.doc.size() > 5);
  }
}
