// The laws that every kind of mixer obeys. A new kind adds a row to the table.

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nn/layer_support.h"
#include "ops/documents.h"
#include "ops/op_table.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis;
using namespace aspis::test;

namespace {

struct Row {
  char letter;
  std::string json;
};

std::vector<Row> table() {
  return {
      {'M', R"({"d_state": 5, "headdim": 4, "ngroups": 2})"},
      {'M', R"({"d_state": 3, "headdim": 8, "d_has_hdim": true, "bias": true, "out_norm": "none",
                "conv_bias": false, "d_conv": 3, "dt_limit": [0.3, 1.5]})"},
      {'M', R"({"d_state": 4, "headdim": 2, "ngroups": 4, "norm_before_gate": true,
                "conv_activation": "none", "d_conv": 1})"},
      {'m', R"({"d_state": 4})"},
      {'m', R"({"d_state": 3, "dt_rank": 2, "bias": true, "conv_bias": false, "d_conv": 2,
                "conv_activation": "none"})"},
      {'*', R"({"heads": 2})"},
      {'*', R"({"heads": 4, "kv_heads": 2, "head_dim": 4, "rope_fraction": 0.5})"},
      {'*', R"({"heads": 4, "kv_heads": 1, "head_dim": 6, "rope_fraction": 1.0, "bias": true,
                "window": 4})"},
      {'w', R"({"heads": 2, "rope_fraction": 1.0, "window": 3})"},
      {'w', R"({"heads": 2, "kv_heads": 1, "window": 1})"},
      {'w', R"({"heads": 2, "window": 100})"},
      {'-', R"({"act": "gelu"})"},
      {'-', R"({"act": "gelu_tanh", "ratio": 1.5, "bias": true})"},
      {'-', R"({"act": "relu2", "ffn_hidden": 5})"},
      {'-', R"({"act": "swiglu", "bias": true})"},
      {'-', R"({"act": "silu"})"},
  };
}

constexpr int64_t kWidth = 8;

// Calls body(mixer, row) for every row, with random double parameters. One thread: at these sizes a
// second one only waits at barriers (the ops' own tests look at threads).
template <typename F>
void for_each_mixer(F&& body) {
  at::set_num_threads(1);
  at::manual_seed(7);
  for (const Row& row : table()) {
    INFO(row.letter << " " << row.json);
    const auto mixer = build_mixer(row.letter, row.json, kWidth);
    fill_parameters(*mixer);
    body(*mixer, row);
  }
}

at::Tensor random_hidden(int64_t b, int64_t l) {
  return at::randn({b, l, kWidth}, at::TensorOptions().dtype(at::kDouble));
}

at::Tensor int_tensor(const std::vector<int>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kInt));
}

// Padding left, in the middle of a document, between documents and right; documents of one token.
nn::Segments packed_rows() {
  const std::vector<int> first = {-1, 4, 4, 4, -1, 4, 9, 0, 0, 0, 0, 0, 0, 0, -1, -1, 4};
  const std::vector<int> second = {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, -3, 1, 1, -1, -2};
  return {at::cat({int_tensor(first).unsqueeze(0), int_tensor(second).unsqueeze(0)}), {}};
}
constexpr int64_t kPackedLength = 17;

// The output of every document on its own, put where the packed row has it; zeros elsewhere.
at::Tensor forward_apart(const nn::Mixer& mixer, const at::Tensor& hidden,
                         const nn::Segments& segments) {
  at::Tensor out = at::zeros_like(hidden);
  for (const auto& document : ops::list_document_tokens("test", hidden, segments.seq_idx,
                                                        segments.cu_seqlens, /*reverse=*/false)) {
    if (document.positions.numel() == 0) continue;
    const at::Tensor alone = hidden.select(0, document.row).index_select(0, document.positions);
    out.select(0, document.row)
        .index_copy_(0, document.positions, mixer.forward(alone.unsqueeze(0), {}).squeeze(0));
  }
  return out;
}

at::Tensor forward_by_steps(const nn::Mixer& mixer, const at::Tensor& hidden,
                            const std::vector<int64_t>& pieces) {
  const auto cache = mixer.make_cache(hidden.size(0));
  std::vector<at::Tensor> outs;
  int64_t done = 0;
  for (const int64_t t : pieces) {
    outs.push_back(mixer.step(hidden.narrow(1, done, t), *cache));
    CHECK_FALSE(outs.back().requires_grad());
    done += t;
  }
  REQUIRE(done == hidden.size(1));
  return at::cat(outs, 1);
}

}  // namespace

TEST_CASE("mixers: step by step = forward, however the tokens are cut") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const at::Tensor hidden = random_hidden(2, 23);
    const at::Tensor whole = mixer.forward(hidden, {});
    REQUIRE(whole.sizes() == hidden.sizes());
    const std::vector<std::vector<int64_t>> cuts = {
        std::vector<int64_t>(23, 1), {23}, {2, 1, 3, 1, 1, 5, 2, 8}, {11, 1, 1, 9, 1}, {1, 2, 20}};
    for (const auto& cut : cuts) {
      INFO(cut.size() << " pieces, the first of " << cut[0]);
      check_equal_in_double("steps", forward_by_steps(mixer, hidden, cut), whole);
    }
  });
}

TEST_CASE("mixers: a long generation outgrows the first cache") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const at::Tensor hidden = random_hidden(1, 150);
    std::vector<int64_t> cut(70, 1);
    cut.push_back(80);
    check_equal_in_double("steps", forward_by_steps(mixer, hidden, cut), mixer.forward(hidden, {}));
  });
}

TEST_CASE("mixers: packed = apart for seq_idx, and padding gives zeros") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const nn::Segments segments = packed_rows();
    const at::Tensor hidden = random_hidden(2, kPackedLength);
    const at::Tensor packed = mixer.forward(hidden, segments);
    check_equal_in_double("packed", packed, forward_apart(mixer, hidden, segments));
    const at::Tensor padding = segments.seq_idx->lt(0).unsqueeze(-1).expand_as(packed);
    CHECK(packed.masked_select(padding).eq(0).all().item<bool>());
  });
}

TEST_CASE("mixers: packed = apart for cu_seqlens") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const nn::Segments segments{{}, int_tensor({0, 1, 1, 7, 9, 20, 20})};
    const at::Tensor hidden = random_hidden(1, 20);
    check_equal_in_double("packed", mixer.forward(hidden, segments),
                          forward_apart(mixer, hidden, segments));
  });
}

TEST_CASE("mixers: wrong documents are refused") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const at::Tensor hidden = random_hidden(1, 6);
    const at::Tensor ids = int_tensor({0, 0, 0, 1, 1, 1}).unsqueeze(0);
    const auto message = [&](const nn::Segments& segments) {
      return message_of([&] { mixer.forward(hidden, segments); });
    };
    CHECK_THAT(message({ids, int_tensor({0, 6})}), Catch::Matchers::Contains("not both"));
    CHECK_THAT(message({{}, int_tensor({0, 5})}), Catch::Matchers::Contains("end at l=6"));
    CHECK_THAT(message({ids.narrow(1, 0, 5), {}}), Catch::Matchers::Contains("seq_idx"));
  });
}

TEST_CASE("mixers: the gradient of every parameter and of the input") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const nn::Segments segments = packed_rows();
    const auto parameters = mixer.parameters();
    std::vector<at::Tensor> inputs = {random_hidden(2, kPackedLength).set_requires_grad(true)};
    for (const auto& p : parameters) {
      CHECK(p.tensor.requires_grad());
      inputs.push_back(p.tensor.detach().clone().set_requires_grad(true));
    }
    check_gradients(
        "mixer",
        [&](const std::vector<at::Tensor>& values) -> std::vector<at::Tensor> {
          // Writing into a parameter that is no leaf passes its gradient on to the written value.
          for (size_t i = 0; i < parameters.size(); ++i) {
            parameters[i].tensor.detach_();
            parameters[i].tensor.copy_(values[i + 1]);
          }
          return {mixer.forward(values[0], segments)};
        },
        inputs);
  });
}

TEST_CASE("mixers: padding takes no part in any gradient") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    const nn::Segments segments = packed_rows();
    const at::Tensor hidden = random_hidden(2, kPackedLength);
    const at::Tensor padding = segments.seq_idx->lt(0).unsqueeze(-1);
    std::vector<at::Tensor> wanted;
    for (const auto& p : mixer.parameters()) wanted.push_back(p.tensor);
    const at::Tensor weight = at::randn_like(hidden);
    const auto grads = [&](const at::Tensor& input) {
      const at::Tensor leaf = input.clone().set_requires_grad(true);
      std::vector<at::Tensor> all = wanted;
      all.push_back(leaf);
      return torch::autograd::grad({mixer.forward(leaf, segments)}, all, {weight});
    };
    const auto plain = grads(hidden), other = grads(hidden.masked_fill(padding, 3.0));
    for (size_t i = 0; i < plain.size(); ++i) check_equal_in_double("gradient", other[i], plain[i]);
    CHECK(plain.back().masked_select(padding).eq(0).all().item<bool>());
  });
}

TEST_CASE("mixers: the reference backend = the kernels") {
  for_each_mixer([](const nn::Mixer& mixer, const Row& row) {
    const auto reference = build_mixer(row.letter, row.json, kWidth, nn::OpsBackend::kReference);
    const auto ours = mixer.parameters(), theirs = reference->parameters();
    REQUIRE(ours.size() == theirs.size());
    {
      const at::NoGradGuard no_grad;
      for (size_t i = 0; i < ours.size(); ++i) theirs[i].tensor.copy_(ours[i].tensor);
    }
    for (const nn::Segments& segments : {nn::Segments{}, packed_rows()}) {
      const at::Tensor hidden = random_hidden(2, kPackedLength);
      check_equal_in_double("forward", mixer.forward(hidden, segments),
                            reference->forward(hidden, segments));
    }
    const at::Tensor hidden = random_hidden(2, 14);
    check_equal_in_double("steps", forward_by_steps(mixer, hidden, {1, 10, 1, 2}),
                          forward_by_steps(*reference, hidden, {1, 10, 1, 2}));
  });
}

TEST_CASE("mixers: parameters of half precision give outputs of half precision") {
  for (const Row& row : table()) {
    INFO(row.letter << " " << row.json);
    nn::MixerContext context = mixer_context(row.letter, kWidth);
    context.options = at::TensorOptions().dtype(at::kBFloat16);
    const auto mixer = block_config(row.letter, row.json)->build(context);
    fill_parameters(*mixer);
    const at::Tensor hidden = random_hidden(1, 12).to(at::kBFloat16);
    const at::Tensor out = mixer->forward(hidden, {});
    CHECK(out.scalar_type() == at::kBFloat16);
    CHECK(out.isfinite().all().item<bool>());
    CHECK(forward_by_steps(*mixer, hidden, {10, 1, 1}).scalar_type() == at::kBFloat16);
  }
}

TEST_CASE("mixers: the config survives a round trip, and a misspelt key is refused") {
  for (const Row& row : table()) {
    INFO(row.letter << " " << row.json);
    const auto config = block_config(row.letter, row.json);
    config::Json first, second;
    config->write(first);
    const config::Json given = config::parse_json_text(row.json, "test");
    for (const auto& [key, value] : given.items()) CHECK(first[key] == value);
    const auto again = config->kind().make_config();
    again->read(first, "test.json", "blocks.x");
    again->write(second);
    CHECK(first.dump() == second.dump());
    config::Json cloned;
    config->clone()->write(cloned);
    CHECK(first.dump() == cloned.dump());

    std::vector<std::string> described;
    for (const auto& info : config->kind().describe("blocks.x")) described.push_back(info.path);
    CHECK(described.size() == first.size());
    for (const auto& [key, value] : first.items()) {
      CHECK(std::count(described.begin(), described.end(), "blocks.x." + key) == 1);
    }
    CHECK_THAT(message_of([&] { block_config(row.letter, R"({"biass": true})"); }),
               Catch::Matchers::Contains(std::string("test.json: blocks.") + row.letter +
                                         ".biass: unknown key (did you mean bias?)"));
  }
}

TEST_CASE("mixers: a second reading overrides single keys") {
  const auto config = block_config('*', R"({"heads": 4, "rope_fraction": 0.5})");
  config->read(config::parse_json_text(R"({"window": 2})", "test"), "test.json", "slot");
  config::Json json;
  config->write(json);
  CHECK(json["heads"] == 4);
  CHECK(json["rope_fraction"] == 0.5);
  CHECK(json["window"] == 2);
}

TEST_CASE("mixers: every kind is in the table of this test, and every op it calls exists") {
  std::string letters;
  for (const Row& row : table()) letters += row.letter;
  for (const nn::MixerKind* kind : nn::mixer_kinds()) {
    INFO(kind->letter);
    CHECK(letters.find(kind->letter) != std::string::npos);
    CHECK_FALSE(kind->name.empty());
    CHECK_FALSE(kind->doc.empty());
    CHECK(kind->make_config()->kind().letter == kind->letter);
  }
  CHECK(nn::find_mixer_kind('?') == nullptr);
  for (const Row& row : table()) {
    for (const std::string& name : build_mixer(row.letter, row.json, kWidth)->ops_used()) {
      const auto& ops = ops::op_table();
      CHECK(std::any_of(ops.begin(), ops.end(), [&](const auto& op) { return op.name == name; }));
    }
  }
}

TEST_CASE("mixers: biases, norms and what is no matrix never decay") {
  for_each_mixer([](const nn::Mixer& mixer, const Row&) {
    for (const auto& p : mixer.parameters()) {
      INFO(p.name);
      const bool bias = p.name.size() >= 4 && p.name.substr(p.name.size() - 4) == "bias";
      const bool other = p.name == "A_log" || p.name == "D" || p.name == "norm.weight";
      CHECK(p.hints.decay == !(bias || other));
    }
  });
}
