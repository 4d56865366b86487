#include "infer/generate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <map>
#include <string>

#include "core/error.h"

namespace aspis::infer {

namespace {

// rows (b, t) -> int64 tensor on the device
at::Tensor token_tensor(const std::vector<std::vector<int64_t>>& rows, at::Device device) {
  const auto b = static_cast<int64_t>(rows.size()), t = static_cast<int64_t>(rows[0].size());
  const at::Tensor tokens = at::empty({b, t}, at::TensorOptions().dtype(at::kLong));
  for (int64_t i = 0; i < b; ++i) {
    std::copy(rows[static_cast<size_t>(i)].begin(), rows[static_cast<size_t>(i)].end(),
              tokens.mutable_data_ptr<int64_t>() + i * t);
  }
  return tokens.to(device);
}

}  // namespace

Generator::Generator(const models::LanguageModel& model, const GeneratorOptions& options)
    : model_(model), options_(options), device_(model.parameters().front().tensor.device()) {}

void Generator::check(size_t index, const GenerationRequest& request) const {
  const std::string prompt = "prompt " + std::to_string(index);
  if (request.prompt.empty()) {
    throw MisuseError(prompt + " is empty: the model continues at least one token",
                      "start from the end-of-document token to generate from nothing");
  }
  const int64_t vocab_size = model_.config().vocab_size;
  for (const int64_t token : request.prompt) {
    if (token < 0 || token >= vocab_size) {
      throw MisuseError(prompt + " holds token " + std::to_string(token) +
                            ", the model's vocabulary has " + std::to_string(vocab_size),
                        "use the tokenizer that the model was trained with");
    }
  }
}

std::vector<Completion> Generator::generate(const std::vector<GenerationRequest>& requests,
                                            const TokenCallback& on_token) const {
  const at::NoGradGuard no_grad;
  std::map<size_t, std::vector<size_t>> by_length;
  for (size_t i = 0; i < requests.size(); ++i) {
    check(i, requests[i]);
    by_length[requests[i].prompt.size()].push_back(i);
  }
  std::vector<Completion> out(requests.size());
  const auto most = static_cast<size_t>(std::max<int64_t>(1, options_.max_batch));
  for (const auto& [length, indices] : by_length) {
    for (size_t begin = 0; begin < indices.size(); begin += most) {
      const size_t end = std::min(indices.size(), begin + most);
      run_group(requests,
                {indices.begin() + static_cast<std::ptrdiff_t>(begin),
                 indices.begin() + static_cast<std::ptrdiff_t>(end)},
                on_token, out);
    }
  }
  return out;
}

// Returns the hidden vector of the last prompt token, (b, 1, d_model).
at::Tensor Generator::prefill(const std::vector<GenerationRequest>& requests,
                              const std::vector<size_t>& group, models::ModelCache& cache) const {
  std::vector<std::vector<int64_t>> rows;
  for (const size_t index : group) rows.push_back(requests[index].prompt);
  const at::Tensor tokens = token_tensor(rows, device_);  // (b, l)
  const int64_t length = tokens.size(1);
  at::Tensor hidden;
  for (int64_t begin = 0; begin < length; begin += options_.prefill_tokens) {
    const int64_t count = std::min(options_.prefill_tokens, length - begin);
    hidden = model_.step(tokens.narrow(1, begin, count), cache);
  }
  return hidden.narrow(1, hidden.size(1) - 1, 1);
}

void Generator::run_group(const std::vector<GenerationRequest>& requests,
                          const std::vector<size_t>& group, const TokenCallback& on_token,
                          std::vector<Completion>& out) const {
  const auto wants_more = [&](size_t index) {
    const Completion& done = out[index];
    return done.finish != FinishReason::kEndToken &&
           static_cast<int64_t>(done.tokens.size()) < requests[index].max_new_tokens;
  };
  if (std::none_of(group.begin(), group.end(), wants_more)) return;

  models::ModelCache cache = model_.make_cache(static_cast<int64_t>(group.size()));
  at::Tensor hidden = prefill(requests, group, cache);  // (b, 1, d_model)
  while (true) {
    const at::Tensor logits =
        model_.logits(hidden).squeeze(1).to(at::kFloat).cpu().contiguous();  // (b, v)
    const int64_t v = logits.size(1);
    std::vector<std::vector<int64_t>> next;
    for (size_t row = 0; row < group.size(); ++row) {
      const size_t index = group[row];
      const GenerationRequest& request = requests[index];
      // A finished sequence is carried along until its group is done.
      if (!wants_more(index)) {
        next.push_back({request.prompt.back()});
        continue;
      }
      const float* values = logits.const_data_ptr<float>() + static_cast<int64_t>(row) * v;
      Completion& done = out[index];
      const int64_t token =
          sample_token({values, values + v}, request.sampling,
                       static_cast<int64_t>(done.tokens.size()), options_.vocab_used);
      done.tokens.push_back(token);
      if (request.end_token && token == *request.end_token) done.finish = FinishReason::kEndToken;
      if (on_token) on_token(index, token, !wants_more(index));
      next.push_back({token});
    }
    if (std::none_of(group.begin(), group.end(), wants_more)) return;
    hidden = model_.step(token_tensor(next, device_), cache);
  }
}

}  // namespace aspis::infer
