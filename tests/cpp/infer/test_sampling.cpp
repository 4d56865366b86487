#include "infer/sampling.h"

#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::infer::sample_token;
using aspis::infer::SamplingConfig;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// How often each token is drawn in `draws` draws.
std::map<int64_t, int64_t> histogram(const std::vector<float>& logits, const SamplingConfig& config,
                                     int64_t draws) {
  std::map<int64_t, int64_t> counts;
  for (int64_t i = 0; i < draws; ++i) ++counts[sample_token(logits, config, i)];
  return counts;
}

}  // namespace

TEST_CASE("sampling: temperature 0 takes the most likely token, the lower id of two equals") {
  const SamplingConfig greedy{.temperature = 0.0};
  CHECK(sample_token({0.f, 3.f, 2.f}, greedy, 0) == 1);
  CHECK(sample_token({1.f, 3.f, 3.f}, greedy, 7) == 1);
  CHECK(sample_token({-kInfinity, -5.f}, greedy, 0) == 1);
  CHECK(sample_token({1.f, 2.f, 9.f}, greedy, 0, 2) == 1);
}

TEST_CASE("sampling: frequencies follow the softmax, sharper at low temperature") {
  const std::vector<float> logits = {std::log(1.f), std::log(2.f), std::log(5.f), -kInfinity};
  const int64_t draws = 20000;
  for (const double temperature : {1.0, 0.5, 2.0}) {
    auto counts = histogram(logits, {.temperature = temperature, .seed = 3}, draws);
    double total = 0;
    const double weights[] = {1, std::pow(2.0, 1 / temperature), std::pow(5.0, 1 / temperature)};
    for (const double weight : weights) total += weight;
    for (int64_t token = 0; token < 3; ++token) {
      const double p = weights[token] / total, n = static_cast<double>(draws);
      INFO("token " << token << " at temperature " << temperature);
      CHECK(std::abs(static_cast<double>(counts[token]) - n * p) < 5 * std::sqrt(n * p * (1 - p)));
    }
    CHECK(counts[3] == 0);
  }
}

TEST_CASE("sampling: top_k and top_p keep the most likely tokens only") {
  const std::vector<float> logits = {std::log(4.f), std::log(1.f), std::log(3.f), std::log(2.f)};
  const auto kept = [&](const SamplingConfig& config) {
    std::vector<int64_t> tokens;
    for (const auto& [token, count] : histogram(logits, config, 2000)) tokens.push_back(token);
    return tokens;
  };
  using Tokens = std::vector<int64_t>;
  CHECK(kept({}) == Tokens{0, 1, 2, 3});
  CHECK(kept({.top_k = 1}) == Tokens{0});
  CHECK(kept({.top_k = 3}) == Tokens{0, 2, 3});
  CHECK(kept({.top_k = 100}) == Tokens{0, 1, 2, 3});
  // Probabilities 0.4, 0.3, 0.2, 0.1.
  CHECK(kept({.top_p = 0.0}) == Tokens{0});
  CHECK(kept({.top_p = 0.39}) == Tokens{0});
  CHECK(kept({.top_p = 0.5}) == Tokens{0, 2});
  CHECK(kept({.top_p = 0.85}) == Tokens{0, 2, 3});
  // top_k first: of 4, 3, 2 the first reaches 4/9.
  CHECK(kept({.top_k = 3, .top_p = 0.44}) == Tokens{0});
}

TEST_CASE("sampling: a draw depends on seed and number only") {
  const std::vector<float> logits(50, 0.f);
  std::vector<int64_t> forward, backward(20), other;
  for (int64_t i = 0; i < 20; ++i) forward.push_back(sample_token(logits, {.seed = 1}, i));
  for (int64_t i = 19; i >= 0; --i) {
    backward[static_cast<size_t>(i)] = sample_token(logits, {.seed = 1}, i);
    other.push_back(sample_token(logits, {.seed = 2}, 19 - i));
  }
  CHECK(forward == backward);
  CHECK(forward != other);
}

TEST_CASE("sampling: logits that are not numbers stop") {
  using aspis::test::message_of;
  CHECK(message_of([] {
          sample_token({0.f, std::nanf("")}, {}, 0);
        }) == "the logit of token 1 is not a number");
  CHECK(message_of([] { sample_token({-kInfinity, -kInfinity}, {}, 0); }) == "no logit is finite");
  CHECK(message_of([] {
          sample_token({kInfinity, 0.f}, {.temperature = 0.0}, 0);
        }) == "no logit is finite");
  CHECK_THROWS_AS(sample_token({std::nanf("")}, {}, 0), aspis::NonFiniteError);
}
