#include "models/language_model.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <map>

#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::models;
using aspis::nn::Segments;
using aspis::test::check_bitwise;
using aspis::test::check_equal_in_double;
using aspis::test::message_of;

namespace {

constexpr int64_t kVocab = 23;

// Small models of every kind: pure ones, the hybrid, all letters, other norms, a tied head,
// reference ops.
struct Kind {
  const char* name;
  const char* body;
};
constexpr const char* kBlocks =
    R"("blocks": {"M": {"d_state": 8, "headdim": 8, "ngroups": 2}, "m": {"d_state": 4},
       "*": {"heads": 4, "kv_heads": 2, "rope_fraction": 0.5}, "w": {"heads": 4, "window": 5},
       "-": {"ratio": 2}})";
constexpr Kind kKinds[] = {
    {"Mamba-2", R"("layer_pattern": "MM")"},
    {"Mamba-1", R"("layer_pattern": "mm")"},
    {"Transformer", R"("layer_pattern": "*-*-", "norm": {"type": "layer_1p"})"},
    {"hybrid", R"("layer_pattern": "M-M*-")"},
    {"every letter",
     R"("layer_pattern": "Mm*w-", "norm": {"type": "layer"}, "tie_embeddings": true)"},
    {"overrides", R"("layer_pattern": ["M", {"type": "M", "d_state": 4, "out_norm": "none"}, "-",
                     {"type": "w", "window": 3}])"},
    {"reference ops", R"("layer_pattern": "Mm*-", "ops": "reference")"},
};

ModelConfig tiny(const Kind& kind) {
  const std::string text = R"({"d_model": 16, "vocab_size": )" + std::to_string(kVocab) + ", " +
                           kind.body + ", " + kBlocks + "}";
  return parse_model_config(text, "a.json");
}

// Tokens of unit size, and matrices larger than the preset's, so that every layer matters. One
// thread: at these sizes a second one only waits at barriers (the ops' own tests look at threads).
// Seeded: at::rand is not by default.
std::unique_ptr<LanguageModel> make(const Kind& kind, at::ScalarType type = at::kDouble,
                                    double growth = 5.0) {
  at::set_num_threads(1);
  at::manual_seed(7);
  auto model = std::make_unique<LanguageModel>(tiny(kind), at::TensorOptions().dtype(type));
  model->initialise(5);
  const at::NoGradGuard no_grad;
  for (const auto& p : model->parameters()) {
    const bool matrix = p.tensor.dim() == 2 && p.name.find("A_log") == std::string::npos;
    if (matrix) p.tensor.mul_(p.name == "embedding.weight" ? 50.0 : growth);
  }
  return model;
}

at::Tensor random_tokens(int64_t b, int64_t l) {
  return at::randint(kVocab, {b, l}, at::TensorOptions().dtype(at::kLong));
}

at::Tensor ids(const std::vector<int64_t>& values) {
  at::Tensor out =
      at::zeros({1, static_cast<int64_t>(values.size())}, at::TensorOptions().dtype(at::kInt));
  for (size_t i = 0; i < values.size(); ++i) out[0][static_cast<int64_t>(i)] = values[i];
  return out;
}

}  // namespace

TEST_CASE("language model: forward equals step, token by token and in uneven pieces") {
  for (const Kind& kind : kKinds) {
    INFO(kind.name);
    const auto model = make(kind);
    const at::NoGradGuard no_grad;
    const at::Tensor tokens = random_tokens(2, 33);
    const at::Tensor whole = model->forward(tokens, {});
    CHECK(whole.sizes() == at::IntArrayRef{2, 33, 16});
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(33, 1), std::vector<int64_t>{33},
          std::vector<int64_t>{20, 1, 1, 2, 9}, std::vector<int64_t>{1, 3, 29}}) {
      ModelCache cache = model->make_cache(2);
      std::vector<at::Tensor> parts;
      int64_t at = 0;
      for (const int64_t t : pieces) {
        parts.push_back(model->step(tokens.narrow(1, at, t), cache));
        at += t;
      }
      CHECK(cache.length == 33);
      check_equal_in_double(kind.name, at::cat(parts, 1), whole);
    }
  }
}

TEST_CASE("language model: the formula of the header, from mixers and norms built apart") {
  for (const Kind& kind : kKinds) {
    INFO(kind.name);
    const auto model = make(kind);
    const at::NoGradGuard no_grad;
    std::map<std::string, at::Tensor> values;
    for (const auto& p : model->parameters()) {
      // Gains and biases away from one and zero, so that each counts.
      if (p.tensor.dim() == 1) p.tensor.add_(at::rand_like(p.tensor) * 0.5);
      values[p.name] = p.tensor;
    }
    const ModelConfig& config = model->config();
    aspis::nn::MixerContext context;
    context.d_model = config.d_model;
    context.options = at::TensorOptions().dtype(at::kDouble);
    const auto copy_to = [&](const aspis::nn::Module& module, const std::string& prefix) {
      for (const auto& p : module.parameters()) p.tensor.copy_(values.at(prefix + p.name));
    };
    const auto normed = [&](const at::Tensor& x, const std::string& prefix) {
      const aspis::nn::Norm norm(config.norm, config.d_model, context.backend, context.options);
      copy_to(norm, prefix);
      return norm.forward(x);
    };
    const at::Tensor tokens = random_tokens(2, 10);
    at::Tensor x = at::embedding(values.at("embedding.weight"), tokens);  // (b, l, d_model)
    for (size_t i = 0; i < config.layers.size(); ++i) {
      const std::string prefix = "layers." + std::to_string(i) + ".";
      const auto mixer = config.layers[i].block->build(context);
      copy_to(*mixer, prefix + "mixer.");
      x = x + mixer->forward(normed(x, prefix + "norm."), {});
    }
    const at::Tensor hidden = normed(x, "norm_f.");
    check_equal_in_double("hidden", model->forward(tokens, {}), hidden);
    const at::Tensor& head =
        values.at(config.tie_embeddings ? "embedding.weight" : "lm_head.weight");
    check_equal_in_double("logits", model->logits(hidden), hidden.matmul(head.t()));
  }
}

TEST_CASE("language model: the loss is that of the logits, per token and summed") {
  for (const Kind& kind : kKinds) {
    INFO(kind.name);
    const auto model = make(kind);
    const at::Tensor tokens = random_tokens(2, 9);
    at::Tensor targets = random_tokens(2, 9);
    targets[0][3] = -100;
    targets[1][0] = -100;
    const auto [sum, count] = model->loss(tokens, targets, {});
    CHECK(count.item<int64_t>() == 16);
    CHECK(count.scalar_type() == at::kLong);
    CHECK(sum.requires_grad());
    const at::Tensor nll = model->token_losses(tokens, targets, {});
    CHECK_FALSE(nll.requires_grad());
    const at::Tensor logits = model->logits(model->forward(tokens, {}));
    CHECK(logits.sizes() == at::IntArrayRef{2, 9, kVocab});
    const at::Tensor valid = targets.ge(0);
    const at::Tensor wanted =
        -at::log_softmax(logits, -1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1) *
        valid;
    check_equal_in_double("token losses", nll, wanted);
    check_equal_in_double("loss", sum, wanted.sum());
  }
}

TEST_CASE("language model: packed documents are as apart, with padding anywhere") {
  for (const Kind& kind : kKinds) {
    INFO(kind.name);
    const auto model = make(kind);
    const at::NoGradGuard no_grad;
    // Documents of 1, 2, 7 and 4 tokens; padding in front, between, inside and behind.
    const std::vector<int64_t> seq = {-1, 0, 1, 1, -1, 2, 2, 2, -1, 2, 2, 2, 2, 3, 3, 3, 3, -1};
    const auto l = static_cast<int64_t>(seq.size());
    const at::Tensor tokens = random_tokens(1, l);
    at::Tensor targets = random_tokens(1, l);
    const at::Tensor seq_idx = ids(seq);
    targets.masked_fill_(seq_idx.lt(0), -100);
    Segments packed;
    packed.seq_idx = seq_idx;
    const at::Tensor nll = model->token_losses(tokens, targets, packed);
    const auto [sum, count] = model->loss(tokens, targets, packed);
    CHECK(count.item<int64_t>() == 14);
    at::Tensor apart_sum = at::zeros({}, at::kDouble);
    for (int64_t document = 0; document < 4; ++document) {
      const at::Tensor places = seq_idx[0].eq(document).nonzero().flatten();
      const at::Tensor own = tokens.index_select(1, places),
                       wanted = targets.index_select(1, places);
      check_equal_in_double("document", nll.index_select(1, places),
                            model->token_losses(own, wanted, {}));
      apart_sum += model->loss(own, wanted, {}).first;
    }
    check_equal_in_double("sum of losses", sum, apart_sum);
  }
}

TEST_CASE("language model: documents by cu_seqlens are as apart, also empty ones") {
  for (const Kind& kind : kKinds) {
    INFO(kind.name);
    const auto model = make(kind);
    const at::NoGradGuard no_grad;
    const std::vector<int64_t> borders = {0, 1, 1, 6, 13};
    Segments packed;
    packed.cu_seqlens = ids(borders)[0];
    const at::Tensor tokens = random_tokens(1, 13), targets = random_tokens(1, 13);
    const at::Tensor sum = model->loss(tokens, targets, packed).first;
    at::Tensor apart = at::zeros({}, at::kDouble);
    for (size_t i = 0; i + 1 < borders.size(); ++i) {
      const int64_t count = borders[i + 1] - borders[i];
      if (count == 0) continue;
      apart +=
          model->loss(tokens.narrow(1, borders[i], count), targets.narrow(1, borders[i], count), {})
              .first;
    }
    check_equal_in_double(kind.name, sum, apart);
  }
}

TEST_CASE("language model: the gradient of every parameter of a tiny hybrid") {
  for (const size_t which : {size_t{3}, size_t{4}}) {
    // Gentle weights: differences of steep functions say little.
    const auto model = make(kKinds[which], at::kDouble, 2.0);
    const at::Tensor tokens = random_tokens(1, 8), targets = random_tokens(1, 8);
    Segments packed;
    packed.seq_idx = ids({0, 0, 0, 1, 1, 1, 1, 1});
    const auto parameters = model->parameters();
    std::vector<at::Tensor> values, own;
    for (const auto& p : parameters) {
      own.push_back(p.tensor);
      values.push_back(p.tensor.detach().clone().set_requires_grad(true));
    }
    const auto grads = torch::autograd::grad({model->loss(tokens, targets, packed).first}, own);
    for (size_t i = 0; i < own.size(); ++i) {
      INFO(parameters[i].name);
      CHECK(grads[i].norm().item<double>() > 0);
      own[i].set_requires_grad(false);
    }
    // A copy in place makes the model's own tensors functions of the values.
    const auto loss_of = [&](const std::vector<at::Tensor>& at) {
      for (size_t i = 0; i < own.size(); ++i) {
        own[i].detach_();
        own[i].copy_(at[i]);
      }
      return std::vector<at::Tensor>{model->loss(tokens, targets, packed).first};
    };
    aspis::test::check_gradients(kKinds[which].name, loss_of, values);
  }
}

TEST_CASE("language model: same seed same bits, whatever came before") {
  const auto a = make(kKinds[3], at::kFloat), b = make(kKinds[3], at::kFloat);
  const at::Tensor tokens = random_tokens(2, 17), targets = random_tokens(2, 17);
  (void)b->loss(random_tokens(1, 5), random_tokens(1, 5), {});
  check_bitwise("loss", a->loss(tokens, targets, {}).first, b->loss(tokens, targets, {}).first);
  check_bitwise("hidden", a->forward(tokens, {}), b->forward(tokens, {}));
}

TEST_CASE("language model: float32 obeys the two-times rule") {
  for (const Kind& kind : kKinds) {
    // Gentle weights and many rows: no single rounding decides.
    const auto exact = make(kind, at::kDouble, 2.0), ours = make(kind, at::kFloat, 2.0);
    ModelConfig reference = tiny(kind);
    reference.ops = "reference";
    LanguageModel plain(reference, at::TensorOptions().dtype(at::kFloat));
    const at::NoGradGuard no_grad;
    const auto exact_parameters = exact->parameters(), plain_parameters = plain.parameters();
    const auto our_parameters = ours->parameters();
    // All three hold the same numbers.
    for (size_t i = 0; i < exact_parameters.size(); ++i) {
      plain_parameters[i].tensor.copy_(our_parameters[i].tensor);
      exact_parameters[i].tensor.copy_(our_parameters[i].tensor);
    }
    const at::Tensor tokens = random_tokens(16, 40);
    aspis::test::check_two_times(kind.name, ours->forward(tokens, {}), plain.forward(tokens, {}),
                                 exact->forward(tokens, {}));
  }
}

TEST_CASE("language model: names and shapes of parameters, tied and untied") {
  const auto names = [](const Kind& kind) {
    std::vector<std::string> out;
    for (const auto& p : make(kind)->parameters()) out.push_back(p.name);
    return out;
  };
  const auto untied = names(kKinds[3]), tied = names(kKinds[4]);
  CHECK(untied.front() == "embedding.weight");
  CHECK(untied.back() == "lm_head.weight");
  CHECK(tied.back() == "norm_f.bias");
  CHECK(std::find(tied.begin(), tied.end(), "lm_head.weight") == tied.end());
  for (const char* name :
       {"layers.0.mixer.in_proj.weight", "layers.0.mixer.conv1d.bias", "layers.0.mixer.A_log",
        "layers.0.mixer.norm.weight", "layers.3.mixer.o_proj.weight",
        "layers.4.mixer.down_proj.weight", "norm_f.weight"}) {
    INFO(name);
    CHECK(std::find(untied.begin(), untied.end(), name) != untied.end());
  }
  // What must never decay does not.
  for (const auto& p : make(kKinds[4])->parameters()) {
    INFO(p.name);
    const bool matrix = p.tensor.dim() == 2 && p.name.find("A_log") == std::string::npos;
    CHECK(p.hints.decay == matrix);
  }
}

TEST_CASE("language model: wrong tokens and caches are refused with sentences") {
  const auto model = make(kKinds[3]);
  const auto starts = [](const std::function<void()>& call, const std::string& text) {
    const std::string message = message_of(call);
    INFO(message);
    CHECK(message.find(text) != std::string::npos);
  };
  starts([&] { (void)model->forward(random_tokens(1, 3)[0], {}); },
         "language model: tokens must be (b, l) int64, got [3]");
  starts([&] { (void)model->forward(random_tokens(1, 3).to(at::kInt), {}); },
         "must be (b, l) int64");
  starts([&] { (void)model->loss(random_tokens(1, 3), random_tokens(1, 3)[0], {}); },
         "targets must be (b, l) int64");
  starts([&] { (void)model->loss(random_tokens(1, 3), random_tokens(1, 4), {}); },
         "targets must have the shape of tokens, [1, 3], got [1, 4]");
  ModelCache cache = model->make_cache(2);
  starts([&] { (void)model->step(random_tokens(3, 1), cache); },
         "the cache holds b=2 sequences, got tokens of 3");
  starts([&] { (void)model->step(at::zeros({2, 0}, at::kLong), cache); }, "at least one token");
  CHECK(cache.length == 0);
}

TEST_CASE("language model: an empty batch has no loss") {
  const auto model = make(kKinds[3]);
  const auto [sum, count] =
      model->loss(at::zeros({1, 0}, at::kLong), at::zeros({1, 0}, at::kLong), {});
  CHECK(sum.item<double>() == 0.0);
  CHECK(count.item<int64_t>() == 0);
}
