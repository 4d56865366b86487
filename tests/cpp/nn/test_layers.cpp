// Linear, Embedding, the norms and the MLP's activations against their formulas.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/layer_support.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis;
using namespace aspis::test;

namespace {

const at::TensorOptions kOptions = at::TensorOptions().dtype(at::kDouble);

at::Tensor logistic(const at::Tensor& x) {
  return 1 / (1 + (-x).exp());
}

}  // namespace

TEST_CASE("linear: x W^T + b, and names") {
  at::manual_seed(1);
  const nn::Linear layer(3, 5, /*bias=*/true, kOptions);
  fill_parameters(layer);
  const at::Tensor x = at::randn({2, 4, 3}, kOptions);
  const at::Tensor wanted =
      (x.unsqueeze(-2) * parameter(layer, "weight")).sum(-1) + parameter(layer, "bias");
  check_equal_in_double("linear", layer.forward(x), wanted);
  CHECK(nn::Linear(3, 5, /*bias=*/false, kOptions).parameter_count() == 15);
}

TEST_CASE("embedding: row of the table, an id out of range is refused") {
  at::manual_seed(1);
  const nn::Embedding layer(7, 3, kOptions);
  fill_parameters(layer);
  const at::Tensor tokens = at::tensor({6, 0, 6}, at::TensorOptions().dtype(at::kLong));
  check_bitwise("rows", layer.forward(tokens), layer.weight().index_select(0, tokens));
  CHECK_THAT(message_of([&] { layer.forward(tokens + 1); }),
             Catch::Matchers::Contains("out of range"));
}

TEST_CASE("norms: formulas, gain stored minus one, hints and gradients") {
  at::manual_seed(2);
  const at::Tensor x = at::randn({2, 3, 10}, kOptions) + 0.5;
  for (const std::string type : {"rms", "layer", "layer_1p"}) {
    INFO(type);
    nn::NormConfig config;
    config.type = type;
    config.eps = 0.01;
    const nn::Norm norm(config, 10, nn::OpsBackend::kKernels, kOptions);
    fill_parameters(norm);
    const at::Tensor centred = type == "rms" ? x : x - x.mean(-1, true);
    const at::Tensor scale = (centred * centred).mean(-1, true) + 0.01;
    const at::Tensor gain = type == "layer_1p" ? norm.weight() + 1 : norm.weight();
    at::Tensor wanted = centred / scale.sqrt() * gain;
    if (type != "rms") wanted = wanted + parameter(norm, "bias");
    check_equal_in_double("norm", norm.forward(x), wanted);
    CHECK(norm.parameters().size() == (type == "rms" ? 1 : 2));
    for (const auto& p : norm.parameters()) CHECK_FALSE(p.hints.decay);
    const nn::Norm reference(config, 10, nn::OpsBackend::kReference, kOptions);
    {
      const at::NoGradGuard no_grad;
      reference.weight().copy_(norm.weight());
      if (norm.bias()) reference.bias()->copy_(*norm.bias());
    }
    check_equal_in_double("reference", reference.forward(x), norm.forward(x));
    check_gradients("norm",
                    [&](const std::vector<at::Tensor>& values) -> std::vector<at::Tensor> {
                      norm.weight().detach_();
                      norm.weight().copy_(values[1]);
                      return {norm.forward(values[0])};
                    },
                    {x.clone().set_requires_grad(true),
                     norm.weight().detach().clone().set_requires_grad(true)});
  }
}

TEST_CASE("norms: config round trip and refusals") {
  nn::NormConfig config;
  config::read(config::parse_json_text(R"({"type": "layer_1p"})", "t"), "t", config, "norm");
  CHECK(config.type == "layer_1p");
  CHECK(config.eps == 1e-5);
  CHECK_THAT(message_of([&] {
               config::read(config::parse_json_text(R"({"type": "rsm"})", "t"), "t.json", config,
                            "norm");
             }),
             Catch::Matchers::Contains(
                 "t.json: norm.type: expected one of \"rms\", \"layer\", \"layer_1p\""));
}

TEST_CASE("mlp: every activation by its formula") {
  at::manual_seed(5);
  const at::Tensor x = at::randn({2, 3, 6}, kOptions);
  for (const std::string act : {"gelu", "gelu_tanh", "relu2", "silu", "swiglu"}) {
    INFO(act);
    const auto mlp = build_mixer('-', R"({"act": ")" + act + R"(", "ratio": 2.5})", 6);
    fill_parameters(*mlp);
    const at::Tensor up = at::matmul(x, parameter(*mlp, "up_proj.weight").t());
    at::Tensor inner;
    if (act == "gelu") inner = 0.5 * up * (1 + at::erf(up / std::sqrt(2.0)));
    if (act == "gelu_tanh") {
      const at::Tensor cubic = std::sqrt(2 / M_PI) * (up + 0.044715 * up * up * up);
      inner = 0.5 * up * (1 + at::tanh(cubic));
    }
    if (act == "relu2") inner = up.clamp_min(0) * up.clamp_min(0);
    if (act == "silu") inner = up * logistic(up);
    if (act == "swiglu") {
      const at::Tensor gate = at::matmul(x, parameter(*mlp, "gate_proj.weight").t());
      inner = gate * logistic(gate) * up;
    }
    CHECK(inner.size(-1) == 15);
    check_equal_in_double("mlp", mlp->forward(x, {}),
                          at::matmul(inner, parameter(*mlp, "down_proj.weight").t()));
  }
}
