#include "models/language_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linear.h>

#include <algorithm>

#include "models/initialisation.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace aspis::models {

namespace {

class Layer : public nn::Module {
 public:
  Layer(const LayerSlot& slot, const nn::NormConfig& norm_config, nn::MixerContext context)
      : norm(add_module("norm", std::make_shared<nn::Norm>(norm_config, context.d_model,
                                                           context.backend, context.options))) {
    context.where = slot.where;
    mixer = add_module("mixer", slot.block->build(context));
  }

  std::shared_ptr<nn::Norm> norm;
  std::shared_ptr<nn::Mixer> mixer;
};

// x <- x + branch, then the norm of x. The addition waits for the norm that reads the sum, because
// one op does both.
class Residual {
 public:
  Residual(at::Tensor x, nn::OpsBackend backend) : x_(std::move(x)), backend_(backend) {}

  void add(at::Tensor branch) { branch_ = std::move(branch); }

  at::Tensor normed(const nn::Norm& norm) {
    if (!branch_.defined()) return norm.forward(x_);
    const at::Tensor branch = std::exchange(branch_, at::Tensor());
    if (norm.config().type != "rms") {
      x_ = x_ + branch;
      return norm.forward(x_);
    }
    ops::AddRmsNormArgs args;
    args.x = branch;
    args.residual = x_;
    args.weight = norm.weight();
    args.eps = norm.config().eps;
    auto [y, sum] = backend_ == nn::OpsBackend::kKernels ? ops::add_rms_norm(args)
                                                         : ops::add_rms_norm_ref(args);
    x_ = std::move(sum);
    return y;
  }

 private:
  at::Tensor x_;       // (b, l, d_model)
  at::Tensor branch_;  // (b, l, d_model), undefined when nothing waits
  nn::OpsBackend backend_;
};

void check_tokens(const at::Tensor& tokens, const char* name) {
  TORCH_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong, "language model: ", name,
              " must be (b, l) int64, got ", tokens.sizes(), " ", tokens.scalar_type());
}

void check_targets(const at::Tensor& tokens, const at::Tensor& targets) {
  check_tokens(targets, "targets");
  TORCH_CHECK(targets.sizes() == tokens.sizes(),
              "language model: targets must have the shape of tokens, ", tokens.sizes(), ", got ",
              targets.sizes());
}

}  // namespace

struct LanguageModel::Parts {
  ModelConfig config;
  nn::OpsBackend backend = nn::OpsBackend::kKernels;
  std::shared_ptr<nn::Embedding> embedding;
  std::vector<std::shared_ptr<Layer>> layers;
  std::shared_ptr<nn::Norm> norm_f;
  std::shared_ptr<nn::Linear> lm_head;  // absent when tied

  const at::Tensor& head() const { return lm_head ? lm_head->weight() : embedding->weight(); }
};

LanguageModel::LanguageModel(const ModelConfig& config, const at::TensorOptions& options)
    : parts_(std::make_unique<Parts>()) {
  Parts& p = *parts_;
  p.config = config;
  p.backend = config.backend();
  nn::MixerContext context;
  context.d_model = config.d_model;
  context.backend = p.backend;
  context.options = options;
  p.embedding = add_module(
      "embedding", std::make_shared<nn::Embedding>(config.vocab_size, config.d_model, options));
  for (size_t i = 0; i < config.layers.size(); ++i) {
    p.layers.push_back(add_module("layers." + std::to_string(i),
                                  std::make_shared<Layer>(config.layers[i], config.norm, context)));
  }
  p.norm_f = add_module(
      "norm_f", std::make_shared<nn::Norm>(config.norm, config.d_model, p.backend, options));
  if (!config.tie_embeddings) {
    p.lm_head =
        add_module("lm_head", std::make_shared<nn::Linear>(config.d_model, config.vocab_size,
                                                           /*bias=*/false, options));
  }
}

LanguageModel::~LanguageModel() = default;

void LanguageModel::initialise(uint64_t seed) {
  for (const nn::NamedParameter& p : parameters()) {
    fill_from(initial_distribution(parts_->config, p.name, p.tensor.sizes()), seed, p.name,
              p.tensor);
  }
}

const ModelConfig& LanguageModel::config() const {
  return parts_->config;
}

at::Tensor LanguageModel::forward(const at::Tensor& tokens, const nn::Segments& segments) const {
  check_tokens(tokens, "tokens");
  Residual x(parts_->embedding->forward(tokens), parts_->backend);
  for (const auto& layer : parts_->layers) {
    x.add(layer->mixer->forward(x.normed(*layer->norm), segments));
  }
  return x.normed(*parts_->norm_f);
}

std::pair<at::Tensor, at::Tensor> LanguageModel::loss(const at::Tensor& tokens,
                                                      const at::Tensor& targets,
                                                      const nn::Segments& segments) const {
  check_targets(tokens, targets);
  ops::LinearCrossEntropyArgs args;
  args.hidden = forward(tokens, segments).flatten(0, 1);  // (b l, d_model)
  args.weight = parts_->head();                           // (v, d_model)
  args.targets = targets.flatten();                       // (b l)
  const auto [sum, count] = parts_->backend == nn::OpsBackend::kKernels
                                ? ops::linear_cross_entropy(args)
                                : ops::linear_cross_entropy_ref(args);
  return {sum, count};
}

at::Tensor LanguageModel::token_losses(const at::Tensor& tokens, const at::Tensor& targets,
                                       const nn::Segments& segments) const {
  const at::NoGradGuard no_grad;
  check_targets(tokens, targets);
  ops::TokenNllArgs args;
  args.hidden = forward(tokens, segments).flatten(0, 1);
  args.weight = parts_->head();
  args.targets = targets.flatten();
  const at::Tensor nll =
      parts_->backend == nn::OpsBackend::kKernels ? ops::token_nll(args) : ops::token_nll_ref(args);
  return nll.view(targets.sizes());
}

at::Tensor LanguageModel::logits(const at::Tensor& hidden) const {
  const at::Tensor out = at::linear(hidden, parts_->head());  // (..., v)
  return out.scalar_type() == at::kDouble ? out : out.to(at::kFloat);
}

ModelCache LanguageModel::make_cache(int64_t b) const {
  ModelCache cache;
  cache.b = b;
  for (const auto& layer : parts_->layers) cache.layers.push_back(layer->mixer->make_cache(b));
  return cache;
}

at::Tensor LanguageModel::step(const at::Tensor& tokens, ModelCache& cache) const {
  const at::NoGradGuard no_grad;
  check_tokens(tokens, "tokens");
  TORCH_CHECK(tokens.size(0) == cache.b, "language model: the cache holds b=", cache.b,
              " sequences, got tokens of ", tokens.size(0));
  TORCH_CHECK(tokens.size(1) >= 1, "language model: a step needs at least one token, got none");
  TORCH_CHECK(cache.layers.size() == parts_->layers.size(), "language model: the cache has ",
              cache.layers.size(), " layers, the model ", parts_->layers.size());
  Residual x(parts_->embedding->forward(tokens), parts_->backend);
  for (size_t i = 0; i < parts_->layers.size(); ++i) {
    const Layer& layer = *parts_->layers[i];
    x.add(layer.mixer->step(x.normed(*layer.norm), *cache.layers[i]));
  }
  cache.length += tokens.size(1);
  return x.normed(*parts_->norm_f);
}

std::vector<std::string> LanguageModel::ops_used() const {
  std::vector<std::string> names;
  const auto add = [&](const std::vector<std::string>& more) {
    for (const std::string& name : more) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  };
  add(parts_->norm_f->ops_used());
  if (parts_->config.norm.type == "rms") add({"add_rms_norm"});
  for (const auto& layer : parts_->layers) add(layer->mixer->ops_used());
  add({"linear_cross_entropy"});
  return names;
}

nn::MixerFacts LanguageModel::layer_facts(size_t layer, int64_t seq_len, int64_t kv_bytes,
                                          int64_t state_bytes) const {
  return parts_->layers.at(layer)->mixer->facts(seq_len, kv_bytes, state_bytes);
}

}  // namespace aspis::models
