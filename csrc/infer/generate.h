#pragma once
// Prompts to completions with a language model: the prompt goes through the model in large steps
// that fill the caches, then one token at a time.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "infer/sampling.h"
#include "models/language_model.h"

namespace aspis::infer {

struct GenerationRequest {
  std::vector<int64_t> prompt;  // at least one token
  int64_t max_new_tokens = 256;
  std::optional<int64_t> end_token = std::nullopt;  // generation stops when it is drawn
  SamplingConfig sampling;
};

enum class FinishReason { kEndToken, kLength };

struct Completion {
  std::vector<int64_t> tokens;  // new tokens only; an end token that was drawn is the last of them
  FinishReason finish = FinishReason::kLength;
};

struct GeneratorOptions {
  // Prompts of equal length that go through the model together. With 1 a completion is the same to
  // the bit whatever else is asked for; more is faster, and equal up to the rounding of larger
  // matrix products.
  int64_t max_batch = 1;
  int64_t prefill_tokens = 1024;  // tokens of a prompt per step
  std::optional<int64_t> vocab_used =
      std::nullopt;  // ids from here on are never drawn (padding of the embedding)
};

// Called for each new token as soon as it is known: index of the request, the token, and whether it
// is the completion's last.
using TokenCallback = std::function<void(size_t request, int64_t token, bool last)>;

class Generator {
 public:
  // Keeps a reference: the model must outlive the generator.
  explicit Generator(const models::LanguageModel& model, const GeneratorOptions& options = {});

  // One completion per request, in the requests' order. Throws MisuseError for an empty prompt or a
  // token outside the vocabulary, NonFiniteError for logits that are not numbers.
  std::vector<Completion> generate(const std::vector<GenerationRequest>& requests,
                                   const TokenCallback& on_token = {}) const;

 private:
  void check(size_t index, const GenerationRequest& request) const;
  // Requests (by index) whose prompts have one length.
  void run_group(const std::vector<GenerationRequest>& requests, const std::vector<size_t>& group,
                 const TokenCallback& on_token, std::vector<Completion>& out) const;
  at::Tensor prefill(const std::vector<GenerationRequest>& requests,
                     const std::vector<size_t>& group, models::ModelCache& cache) const;

  const models::LanguageModel& model_;
  GeneratorOptions options_;
  at::Device device_;
};

}  // namespace aspis::infer
