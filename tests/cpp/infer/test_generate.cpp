#include "infer/generate.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::infer;
using aspis::models::LanguageModel;
using aspis::test::message_of;
using Tokens = std::vector<int64_t>;

namespace {

constexpr int64_t kVocab = 29;

// One thread: at these sizes a second one only waits at barriers.
std::unique_ptr<LanguageModel> make(const std::string& pattern) {
  at::set_num_threads(1);
  const std::string text = R"({"d_model": 16, "vocab_size": 29, "layer_pattern": ")" + pattern +
                           R"(", "blocks": {"M": {"d_state": 8, "headdim": 8}, "m": {"d_state": 4},
      "*": {"heads": 4, "rope_fraction": 0.5}, "w": {"heads": 4, "window": 4}}})";
  auto model = std::make_unique<LanguageModel>(aspis::models::parse_model_config(text, "a.json"),
                                               at::TensorOptions().dtype(at::kDouble));
  model->initialise(11);
  // Larger weights than a fresh model's, so that the tokens say something of the context.
  const at::NoGradGuard no_grad;
  for (const auto& p : model->parameters()) {
    if (p.name.find("_proj.weight") != std::string::npos || p.name == "embedding.weight")
      p.tensor.mul_(8.0);
  }
  return model;
}

Tokens prompt(int64_t length, int64_t salt) {
  Tokens out;
  for (int64_t i = 0; i < length; ++i) out.push_back((7 * i * i + 3 * i + salt) % kVocab);
  return out;
}

GenerationRequest request(Tokens tokens, int64_t count,
                          SamplingConfig sampling = {.temperature = 0.0}) {
  GenerationRequest out;
  out.prompt = std::move(tokens);
  out.max_new_tokens = count;
  out.sampling = sampling;
  return out;
}

// The slow way: the whole text through forward for every token.
Tokens by_forward(const LanguageModel& model, Tokens text, int64_t count) {
  const at::NoGradGuard no_grad;
  Tokens out;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor tokens = at::tensor(text, at::kLong).unsqueeze(0);
    const at::Tensor logits = model.logits(model.forward(tokens, {}));
    out.push_back(logits.select(1, logits.size(1) - 1).argmax().item<int64_t>());
    text.push_back(out.back());
  }
  return out;
}

constexpr const char* kPatterns[] = {"MM", "mm", "*-*-", "wwM", "M-M*-", "Mm*w-"};

}  // namespace

TEST_CASE("generate: greedy is the argmax of the whole text's forward, for every kind of model") {
  for (const char* pattern : kPatterns) {
    INFO(pattern);
    const auto model = make(pattern);
    for (const int64_t length : {1, 3, 20}) {
      const auto done = Generator(*model).generate({request(prompt(length, 1), 12)});
      REQUIRE(done.size() == 1);
      CHECK(done[0].tokens == by_forward(*model, prompt(length, 1), 12));
      CHECK(done[0].finish == FinishReason::kLength);
      // Small steps through the prompt change nothing.
      const Generator careful(*model, {.prefill_tokens = 3});
      CHECK(careful.generate({request(prompt(length, 1), 12)})[0].tokens == done[0].tokens);
    }
  }
}

TEST_CASE("generate: several prompts at once are as many single runs, alone or grouped") {
  for (const char* pattern : kPatterns) {
    INFO(pattern);
    const auto model = make(pattern);
    std::vector<GenerationRequest> requests;
    for (const auto& [length, salt] :
         std::vector<std::pair<int64_t, int64_t>>{{4, 1}, {9, 2}, {4, 3}, {1, 4}, {4, 5}, {9, 6}}) {
      requests.push_back(request(prompt(length, salt), 6 + salt,
                                 {.temperature = 1.2, .top_k = 20, .top_p = 0.95, .seed = salt}));
    }
    std::vector<Tokens> alone;
    for (const auto& r : requests) alone.push_back(Generator(*model).generate({r})[0].tokens);
    for (const int64_t max_batch : {1, 2, 8}) {
      const auto together = Generator(*model, {.max_batch = max_batch}).generate(requests);
      REQUIRE(together.size() == requests.size());
      for (size_t i = 0; i < requests.size(); ++i) {
        INFO("request " << i << ", groups of " << max_batch);
        CHECK(together[i].tokens == alone[i]);
        CHECK(static_cast<int64_t>(together[i].tokens.size()) == requests[i].max_new_tokens);
      }
    }
  }
}

TEST_CASE("generate: seeds decide, order does not") {
  const auto model = make("M-M*-");
  const auto with_seed = [](int64_t seed) { return request(prompt(5, 1), 24, {.seed = seed}); };
  const Generator generator(*model);
  const auto forward = generator.generate({with_seed(1), with_seed(2), with_seed(1)});
  const auto backward = generator.generate({with_seed(2), with_seed(1)});
  CHECK(forward[0].tokens == forward[2].tokens);
  CHECK(forward[0].tokens != forward[1].tokens);
  CHECK(forward[0].tokens == backward[1].tokens);
  CHECK(forward[1].tokens == backward[0].tokens);
}

TEST_CASE("generate: stops at the end token, and its group goes on") {
  const auto model = make("M-M*-");
  const Tokens whole = by_forward(*model, prompt(6, 1), 10);
  auto stopping = request(prompt(6, 1), 10);
  stopping.end_token = whole[4];
  size_t first = 0;
  while (whole[first] != whole[4]) ++first;
  const auto other = request(prompt(6, 2), 10);
  for (const int64_t max_batch : {1, 4}) {
    const auto done = Generator(*model, {.max_batch = max_batch}).generate({stopping, other});
    CHECK(done[0].tokens ==
          Tokens(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(first) + 1));
    CHECK(done[0].finish == FinishReason::kEndToken);
    CHECK(done[1].tokens == by_forward(*model, prompt(6, 2), 10));
    CHECK(done[1].finish == FinishReason::kLength);
  }
}

TEST_CASE("generate: every token is announced once, in order, the last one as such") {
  const auto model = make("MM");
  std::vector<Tokens> seen(3);
  std::vector<int64_t> ends(3, 0);
  const auto listen = [&](size_t index, int64_t token, bool last) {
    CHECK(ends[index] == 0);
    seen[index].push_back(token);
    ends[index] += last;
  };
  const auto done =
      Generator(*model, {.max_batch = 2})
          .generate({request(prompt(3, 1), 4), request(prompt(3, 2), 7), request(prompt(2, 3), 1)},
                    listen);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(seen[i] == done[i].tokens);
    CHECK(ends[i] == 1);
  }
}

TEST_CASE("generate: padding of the vocabulary is never drawn") {
  const auto model = make("MM");
  const Generator generator(*model, {.vocab_used = 5});
  const auto done = generator.generate({request(prompt(4, 1), 40, {.temperature = 5.0})});
  CHECK(done[0].tokens.size() == 40);
  for (const int64_t token : done[0].tokens) CHECK(token < 5);
}

TEST_CASE("generate: nothing to do, and what is refused") {
  const auto model = make("MM");
  const Generator generator(*model);
  CHECK(generator.generate({}).empty());
  CHECK(generator.generate({request(prompt(3, 1), 0)})[0].tokens.empty());
  CHECK(message_of([&] {
          generator.generate({request(prompt(3, 1), 1), request({}, 1)});
        }) == "prompt 1 is empty: the model continues at least one token");
  CHECK(message_of([&] {
          generator.generate({request({3, 29}, 1)});
        }) == "prompt 0 holds token 29, the model's vocabulary has 29");
  CHECK(message_of([&] { generator.generate({request({-1}, 1)}); }).find("holds token -1") !=
        std::string::npos);
  CHECK_THROWS_AS(generator.generate({request({}, 1)}), aspis::MisuseError);
}
