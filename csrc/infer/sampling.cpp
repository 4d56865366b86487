#include "infer/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "core/error.h"
#include "core/random.h"

namespace aspis::infer {

void fields(config::Fields& f, SamplingConfig& c) {
  f.number("temperature", c.temperature, "Divides the logits; 0: the most likely token.",
           {.min = 0.0});
  f.optional_integer("top_k", c.top_k, "Draw from so many most likely tokens; null: from all.",
                     {.min = 1});
  f.number("top_p", c.top_p,
           "Draw from the fewest most likely tokens that reach this probability together.",
           {.min = 0.0, .max = 1.0});
  f.integer("seed", c.seed, "Seed of the draws.", {.min = 0});
}

int64_t sample_token(const std::vector<float>& logits, const SamplingConfig& config, int64_t number,
                     std::optional<int64_t> vocab_used) {
  size_t count = logits.size();
  if (vocab_used) count = std::min(count, static_cast<size_t>(*vocab_used));
  const auto more_likely = [&](int64_t a, int64_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  int64_t best = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) {
      throw NonFiniteError("the logit of token " + std::to_string(i) + " is not a number",
                           "the model's weights or its state hold values that are not finite");
    }
    if (more_likely(static_cast<int64_t>(i), best)) best = static_cast<int64_t>(i);
  }
  if (count == 0 || !std::isfinite(logits[static_cast<size_t>(best)])) {
    throw NonFiniteError("no logit is finite",
                         "the model's weights or its state hold values that are not finite");
  }
  if (config.temperature == 0.0) return best;

  std::vector<int64_t> ids(count);
  std::iota(ids.begin(), ids.end(), int64_t{0});
  if (config.top_k && static_cast<size_t>(*config.top_k) < count) {
    const auto kept = static_cast<std::ptrdiff_t>(*config.top_k);
    std::nth_element(ids.begin(), ids.begin() + (kept - 1), ids.end(), more_likely);
    ids.resize(static_cast<size_t>(kept));
  }
  std::sort(ids.begin(), ids.end(), more_likely);

  // Weights relative to the most likely token, so that nothing overflows.
  std::vector<double> weights(ids.size());
  const double top = logits[static_cast<size_t>(best)];
  for (size_t i = 0; i < ids.size(); ++i) {
    weights[i] = std::exp((logits[static_cast<size_t>(ids[i])] - top) / config.temperature);
  }
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (config.top_p < 1.0) {
    double reached = 0.0;
    size_t kept = 0;
    while (kept < ids.size() && (kept == 0 || reached < config.top_p * total)) {
      reached += weights[kept++];
    }
    ids.resize(kept);
    total = reached;
  }
  double left = total * uniform_pair(static_cast<uint64_t>(config.seed), stream_of("sampling"),
                                     static_cast<uint64_t>(number))
                            .first;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    left -= weights[i];
    if (left < 0) return ids[i];
  }
  // Rounding may leave a trace of the last weight: a token of weight zero is never the answer.
  size_t last = ids.size() - 1;
  while (weights[last] == 0.0) --last;
  return ids[last];
}

}  // namespace aspis::infer
