#include "nn/layer_support.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/rand_like.h>
#include <ATen/ops/randn_like.h>

#include <nlohmann/json.hpp>

#include "support/catch.h"

namespace aspis::test {

std::unique_ptr<nn::BlockConfig> block_config(char letter, const std::string& json) {
  const nn::MixerKind* kind = nn::find_mixer_kind(letter);
  REQUIRE(kind != nullptr);
  auto config = kind->make_config();
  config->read(config::parse_json_text(json, "test"), "test.json", std::string("blocks.") + letter);
  return config;
}

nn::MixerContext mixer_context(char letter, int64_t d_model, nn::OpsBackend backend) {
  nn::MixerContext context;
  context.d_model = d_model;
  context.backend = backend;
  context.options = at::TensorOptions().dtype(at::kDouble);
  context.where = std::string("test.json: blocks.") + letter;
  return context;
}

std::shared_ptr<nn::Mixer> build_mixer(char letter, const std::string& json, int64_t d_model,
                                       nn::OpsBackend backend) {
  return block_config(letter, json)->build(mixer_context(letter, d_model, backend));
}

void fill_parameters(const nn::Module& module) {
  const at::NoGradGuard no_grad;
  for (const nn::NamedParameter& p : module.parameters()) {
    if (p.name == "A_log") {
      p.tensor.copy_(at::rand_like(p.tensor) * 2 - 1);
    } else {
      p.tensor.copy_(at::randn_like(p.tensor) * 0.5);
    }
  }
}

at::Tensor parameter(const nn::Module& module, const std::string& name) {
  for (const nn::NamedParameter& p : module.parameters()) {
    if (p.name == name) return p.tensor;
  }
  FAIL("no parameter " << name);
  return {};
}

}  // namespace aspis::test
