// Settings that do not fit together are refused by key; sizes and costs are the published ones.

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "nn/layer_support.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis;
using namespace aspis::test;
using Catch::Matchers::Contains;

namespace {

// The message of the ConfigError that building gives.
std::string refusal(char letter, const std::string& json, int64_t d_model) {
  try {
    build_mixer(letter, json, d_model);
  } catch (const ConfigError& error) {
    return error.what();
  }
  FAIL("expected a ConfigError for " << letter << " " << json);
  return "";
}

// Without memory.
std::shared_ptr<nn::Mixer> on_meta(char letter, const std::string& json, int64_t d_model) {
  nn::MixerContext context = mixer_context(letter, d_model);
  context.options = at::TensorOptions().device("meta").dtype(at::kFloat);
  return block_config(letter, json)->build(context);
}

}  // namespace

TEST_CASE("limits: each names its key") {
  CHECK_THAT(refusal('M', R"({"headdim": 48})", 64),
             Contains("test.json: blocks.M.headdim: 48 must divide expand * d_model (2 * 64)"));
  CHECK_THAT(refusal('M', R"({"headdim": 32, "ngroups": 3})", 64),
             Contains("blocks.M.ngroups: 3 must divide the 4 heads"));
  CHECK_THAT(refusal('M', R"({"dt_limit": [2, 1]})", 64), Contains("blocks.M.dt_limit"));
  CHECK_THAT(refusal('M', R"({"dt_limit": [2]})", 64), Contains("blocks.M.dt_limit"));
  CHECK_THAT(refusal('M', R"({"a_init_range": []})", 64), Contains("blocks.M.a_init_range"));
  CHECK_THAT(refusal('M', R"({"dt_min": 1.0})", 64), Contains("blocks.M.dt_max"));
  CHECK_THAT(refusal('m', R"({"dt_min": 1.0})", 64), Contains("blocks.m.dt_max"));
  CHECK_THAT(refusal('*', "{}", 64), Contains("blocks.*.heads: missing"));
  CHECK_THAT(refusal('*', R"({"heads": 5})", 64),
             Contains("blocks.*.heads: 5 must divide d_model (64)"));
  CHECK_THAT(refusal('*', R"({"heads": 4, "kv_heads": 3})", 64),
             Contains("blocks.*.kv_heads: 3 must divide heads (4)"));
  CHECK_THAT(refusal('*', R"({"heads": 4, "rope_fraction": 0.3})", 64),
             Contains("blocks.*.rope_fraction: rope_fraction * head_dim must be an even number"));
  CHECK_THAT(refusal('*', R"({"heads": 4, "head_dim": 6, "rope_fraction": 0.5})", 64),
             Contains("blocks.*.rope_fraction"));
  CHECK_THAT(refusal('w', R"({"heads": 4})", 64), Contains("blocks.w.window: missing"));
  CHECK_THAT(refusal('-', R"({"ratio": 0.3})", 64), Contains("blocks.-.ratio"));
  CHECK_THAT(refusal('-', R"({"ratio": 0})", 64), Contains("blocks.-.ratio"));
  CHECK_THAT(message_of([] { block_config('*', R"({"rope_fraction": 1.5})"); }),
             Contains("blocks.*.rope_fraction: expected a number >= 0, <= 1, got 1.5"));
  CHECK_THAT(message_of([] { block_config('M', R"({"d_state": 0})"); }),
             Contains("blocks.M.d_state: expected an integer >= 1, got 0"));
}

TEST_CASE("facts: Megatron's FLOPs of the 8B study at sequence 4096") {
  const auto flops = [](char letter, const std::string& json) {
    return on_meta(letter, json, 4096)->facts(4096, 2, 4).forward_flops_per_token;
  };
  CHECK(flops('*', R"({"heads": 32})") == 167772160.0);
  CHECK(flops('*', R"({"heads": 32, "kv_heads": 8})") == 117440512.0);
  CHECK(flops('-', R"({"ratio": 4})") == 268435456.0);
  CHECK(flops('-', R"({"ratio": 4, "act": "swiglu"})") == 1.5 * 268435456.0);
  CHECK(flops('M', R"({"ngroups": 8})") == 226492416.0);
  // A window of the whole context costs what no window costs.
  CHECK(flops('w', R"({"heads": 32, "window": 4096})") == 167772160.0);
  CHECK(flops('w', R"({"heads": 32, "window": 128})") < 140000000.0);
  // 2 (in 2 * 8192 + x 8192 * 288 + dt 256 * 8192 + out 8192 * 4096) + 7 * 8192 * 16
  CHECK(flops('m', "{}") ==
        2.0 * (4096.0 * 16384 + 8192.0 * 288 + 256.0 * 8192 + 8192.0 * 4096) + 7.0 * 8192 * 16);
}

TEST_CASE("facts: bytes of state and cache") {
  const auto mamba2 = on_meta('M', R"({"ngroups": 8})", 4096)->facts(4096, 2, 4);
  CHECK(mamba2.state_bytes_per_sequence == 128 * 64 * 128 * 4 + 10240 * 3 * 2);
  CHECK(mamba2.cache_bytes_per_token == 0);
  const auto mamba1 = on_meta('m', "{}", 768)->facts(4096, 2, 4);
  CHECK(mamba1.state_bytes_per_sequence == 1536 * 16 * 4 + 1536 * 3 * 2);
  const auto full = on_meta('*', R"({"heads": 32, "kv_heads": 8})", 4096)->facts(4096, 2, 4);
  CHECK(full.state_bytes_per_sequence == 0);
  CHECK(full.cache_bytes_per_token == 2 * 8 * 128 * 2);
  const auto ring =
      on_meta('w', R"({"heads": 32, "kv_heads": 8, "window": 100})", 4096)->facts(4096, 2, 4);
  CHECK(ring.state_bytes_per_sequence == 100 * 2 * 8 * 128 * 2);
  CHECK(ring.cache_bytes_per_token == 0);
  const auto mlp = on_meta('-', "{}", 64)->facts(4096, 2, 4);
  CHECK(mlp.state_bytes_per_sequence + mlp.cache_bytes_per_token == 0);
}

TEST_CASE("sizes: parameters of released layers") {
  const auto shape = [](const nn::Mixer& mixer, const std::string& name) {
    return parameter(mixer, name).sizes().vec();
  };
  using Sizes = std::vector<int64_t>;
  // mamba2-130m: (2 di + 2 g n + h) d + (di + 2 g n) (k + 1) + 3 h + di + d di
  const auto mamba2 = on_meta('M', "{}", 768);
  CHECK(mamba2->parameter_count() == 3352 * 768 + 1792 * 5 + 3 * 24 + 1536 + 768 * 1536);
  CHECK(shape(*mamba2, "in_proj.weight") == Sizes{3352, 768});
  CHECK(shape(*mamba2, "conv1d.weight") == Sizes{1792, 4});
  CHECK(shape(*mamba2, "conv1d.bias") == Sizes{1792});
  CHECK(shape(*mamba2, "dt_bias") == Sizes{24});
  CHECK(shape(*mamba2, "A_log") == Sizes{24});
  CHECK(shape(*mamba2, "D") == Sizes{24});
  CHECK(shape(*mamba2, "norm.weight") == Sizes{1536});
  CHECK(shape(*mamba2, "out_proj.weight") == Sizes{768, 1536});
  // mamba-130m: 3 di d + di (k + 1) + (r + 2 n) di + di r + di + di n + di
  const auto mamba1 = on_meta('m', "{}", 768);
  CHECK(mamba1->parameter_count() ==
        3 * 1536 * 768 + 1536 * 5 + (48 + 32) * 1536 + 1536 * 48 + 1536 + 1536 * 16 + 1536);
  CHECK(shape(*mamba1, "in_proj.weight") == Sizes{3072, 768});
  CHECK(shape(*mamba1, "x_proj.weight") == Sizes{80, 1536});
  CHECK(shape(*mamba1, "dt_proj.weight") == Sizes{1536, 48});
  CHECK(shape(*mamba1, "dt_proj.bias") == Sizes{1536});
  CHECK(shape(*mamba1, "A_log") == Sizes{1536, 16});
  // The study's attention: 32 heads, 8 groups.
  const auto attention = on_meta('*', R"({"heads": 32, "kv_heads": 8})", 4096);
  CHECK(attention->parameter_count() == (6144 + 4096) * 4096);
  CHECK(shape(*attention, "k_proj.weight") == Sizes{1024, 4096});
}
