#include "models/initialisation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <map>

#include "models/language_model.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::models;

namespace {

ModelConfig read_text(const std::string& text) {
  return parse_model_config(text, "a.json");
}

// A hybrid of every kind of layer, wide enough for statistics.
ModelConfig every_kind(const std::string& init, const std::string& norm = "rms") {
  return read_text(R"({"d_model": 128, "vocab_size": 300, "layer_pattern": "Mm*-w-MM", "init": ")" +
                   init + R"(", "norm": {"type": ")" + norm + R"("}, "blocks": {"M": {"headdim": 4},
                     "*": {"heads": 4, "bias": true}, "w": {"heads": 4, "window": 8},
                     "-": {"act": "swiglu"}}})");
}

std::map<std::string, at::Tensor> drawn(const ModelConfig& config, uint64_t seed,
                                        at::ScalarType type = at::kDouble) {
  LanguageModel model(config, at::TensorOptions().dtype(type));
  model.initialise(seed);
  std::map<std::string, at::Tensor> out;
  for (const auto& p : model.parameters()) out[p.name] = p.tensor.detach();
  return out;
}

// Mean 0 and the wanted second moment, within five standard errors (kurtosis: E x^4 / (E x^2)^2).
void check_moments(const std::string& name, const at::Tensor& values, double deviation,
                   double kurtosis) {
  INFO(name << ", wanted standard deviation " << deviation);
  const double n = static_cast<double>(values.numel());
  const double error = 5 / std::sqrt(n);
  CHECK(std::abs(values.mean().item<double>()) < error * deviation);
  const double square = (values * values).mean().item<double>() / (deviation * deviation);
  CHECK(std::abs(square - 1) < error * std::sqrt(kurtosis - 1));
}

void check_normal(const std::map<std::string, at::Tensor>& values, const std::string& name,
                  double deviation) {
  const at::Tensor& x = values.at(name);
  check_moments(name, x, deviation, 3.0);
  CHECK(x.abs().max().item<double>() > 2.5 * deviation);  // no uniform distribution reaches that
}

void check_uniform(const std::map<std::string, at::Tensor>& values, const std::string& name,
                   double bound) {
  const at::Tensor& x = values.at(name);
  check_moments(name, x, bound / std::sqrt(3.0), 1.8);
  CHECK(x.abs().max().item<double>() <= bound);
  CHECK(x.abs().max().item<double>() > 0.9 * bound);
}

void check_all(const at::Tensor& values, double wanted) {
  CHECK(values.eq(wanted).all().item<bool>());
}

void check_within(const at::Tensor& values, double low, double high) {
  CHECK(values.min().item<double>() >= low);
  CHECK(values.max().item<double>() <= high);
}

// What every preset does alike.
void check_common(const std::map<std::string, at::Tensor>& p) {
  check_normal(p, "embedding.weight", 0.02);
  check_uniform(p, "layers.0.mixer.conv1d.weight", 0.5);
  check_uniform(p, "layers.0.mixer.conv1d.bias", 0.5);
  check_uniform(p, "layers.1.mixer.conv1d.weight", 0.5);
  check_within(p.at("layers.0.mixer.A_log"), 0.0, std::log(16.0));
  const at::Tensor a = p.at("layers.0.mixer.A_log").exp();  // uniform in [1, 16]
  check_moments("A", a - 8.5, 7.5 / std::sqrt(3.0), 1.8);
  const at::Tensor counts = at::arange(1, 17, at::kDouble).log();
  CHECK(p.at("layers.1.mixer.A_log").eq(counts).all().item<bool>());
  check_all(p.at("layers.0.mixer.D"), 1.0);
  check_all(p.at("layers.1.mixer.D"), 1.0);
  check_all(p.at("layers.0.mixer.norm.weight"), 1.0);
  check_all(p.at("layers.2.mixer.q_proj.bias"), 0.0);
  for (const char* name : {"layers.0.mixer.dt_bias", "layers.1.mixer.dt_proj.bias"}) {
    INFO(name);
    const at::Tensor dt = p.at(name).exp().log1p();  // softplus
    check_within(dt, 1e-3 * (1 - 1e-9), 0.1 * (1 + 1e-9));
    // log dt is uniform between log 1e-3 and log 0.1.
    const double half = 0.5 * std::log(100.0);
    check_moments(name, dt.log() - (std::log(1e-3) + half), half / std::sqrt(3.0), 1.8);
  }
  check_uniform(p, "layers.1.mixer.dt_proj.weight", 1 / std::sqrt(8.0));
}

}  // namespace

TEST_CASE("initialisation: study") {
  const auto p = drawn(every_kind("study"), 1);
  check_common(p);
  check_normal(p, "lm_head.weight", 0.02);
  check_uniform(p, "layers.0.mixer.in_proj.weight", 1 / std::sqrt(128.0));
  check_uniform(p, "layers.1.mixer.x_proj.weight", 1 / std::sqrt(256.0));
  check_normal(p, "layers.0.mixer.out_proj.weight", 0.02 / std::sqrt(8.0));
  for (const char* name : {"layers.2.mixer.q_proj.weight", "layers.4.mixer.v_proj.weight",
                           "layers.3.mixer.up_proj.weight", "layers.3.mixer.gate_proj.weight"}) {
    check_normal(p, name, 0.02);
  }
  check_normal(p, "layers.2.mixer.o_proj.weight", 0.02 / std::sqrt(16.0));
  check_normal(p, "layers.3.mixer.down_proj.weight", 0.02 / std::sqrt(16.0));
  check_all(p.at("layers.0.norm.weight"), 1.0);
  check_all(p.at("norm_f.weight"), 1.0);
}

TEST_CASE("initialisation: without Mamba layers study scales by the slots, two to a block") {
  const auto p = drawn(read_text(R"({"d_model": 128, "vocab_size": 300, "layer_pattern": "*-*-",
      "norm": {"type": "layer_1p"}, "blocks": {"*": {"heads": 4}}})"),
                       1);
  check_normal(p, "layers.0.mixer.o_proj.weight", 0.02 / std::sqrt(4.0));
  check_normal(p, "layers.1.mixer.down_proj.weight", 0.02 / std::sqrt(4.0));
  // The gain is kept minus one.
  check_all(p.at("layers.0.norm.weight"), 0.0);
  check_all(p.at("layers.0.norm.bias"), 0.0);
  check_all(p.at("norm_f.weight"), 0.0);
}

TEST_CASE("initialisation: megatron") {
  const auto p = drawn(every_kind("megatron", "layer"), 1);
  check_common(p);
  check_normal(p, "lm_head.weight", 0.02);
  check_normal(p, "layers.0.mixer.in_proj.weight", 0.02);
  check_normal(p, "layers.2.mixer.k_proj.weight", 0.02);
  for (const char* name : {"layers.0.mixer.out_proj.weight", "layers.2.mixer.o_proj.weight",
                           "layers.3.mixer.down_proj.weight"}) {
    check_normal(p, name, 0.02 / std::sqrt(8.0));
  }
  check_all(p.at("layers.0.norm.weight"), 1.0);
  check_all(p.at("layers.0.norm.bias"), 0.0);
}

TEST_CASE("initialisation: mamba_ssm") {
  const auto p = drawn(every_kind("mamba_ssm"), 1);
  check_common(p);
  check_uniform(p, "lm_head.weight", 1 / std::sqrt(128.0));
  check_uniform(p, "layers.0.mixer.in_proj.weight", 1 / std::sqrt(128.0));
  check_uniform(p, "layers.2.mixer.q_proj.weight", 1 / std::sqrt(128.0));
  check_uniform(p, "layers.0.mixer.out_proj.weight", 1 / std::sqrt(256.0 * 6));
  check_uniform(p, "layers.3.mixer.down_proj.weight", 1 / std::sqrt(512.0 * 6));
}

TEST_CASE("initialisation: ranges come from the block's settings, the floor holds") {
  const auto p =
      drawn(read_text(R"({"d_model": 128, "vocab_size": 10, "layer_pattern": "M", "blocks": {"M":
      {"headdim": 4, "a_init_range": [2, 3], "dt_min": 1e-6, "dt_max": 1e-2, "dt_init_floor": 1e-3}}})"),
            1);
  check_within(p.at("layers.0.mixer.A_log"), std::log(2.0), std::log(3.0));
  const at::Tensor dt = p.at("layers.0.mixer.dt_bias").exp().log1p();
  check_within(dt, 1e-3 * (1 - 1e-9), 1e-2 * (1 + 1e-9));
  CHECK(dt.lt(1e-3 * (1 + 1e-9)).sum().item<int64_t>() >
        32);  // three quarters of 64 lie below the floor
}

TEST_CASE("initialisation: values depend on seed and name, not on order, neighbours or depth") {
  const auto once = drawn(every_kind("study"), 1), again = drawn(every_kind("study"), 1);
  const auto other = drawn(every_kind("study"), 2);
  for (const auto& [name, tensor] : once) {
    aspis::test::check_bitwise(name, tensor, again.at(name));
    const bool drawn_at_random =
        !tensor.eq(tensor.flatten()[0]).all().item<bool>() && name != "layers.1.mixer.A_log";
    if (drawn_at_random) CHECK_FALSE(tensor.equal(other.at(name)));
  }
  CHECK_FALSE(
      once.at("layers.6.mixer.in_proj.weight").equal(once.at("layers.7.mixer.in_proj.weight")));
  CHECK_FALSE(
      once.at("layers.2.mixer.q_proj.weight").equal(once.at("layers.2.mixer.k_proj.weight")));

  // One tensor filled alone, and in a model of other layers.
  const auto config = every_kind("study");
  const std::string name = "layers.0.mixer.in_proj.weight";
  const at::Tensor alone = at::empty(once.at(name).sizes(), at::kDouble);
  fill_from(initial_distribution(config, name, alone.sizes()), 1, name, alone);
  aspis::test::check_bitwise(name, alone, once.at(name));
  const auto shallow = drawn(read_text(R"({"d_model": 128, "vocab_size": 300, "layer_pattern": "M",
      "blocks": {"M": {"headdim": 4}}})"),
                             1);
  aspis::test::check_bitwise(name, shallow.at(name), once.at(name));
}

TEST_CASE("initialisation: the number of threads changes nothing") {
  const Distribution normal{Distribution::Kind::kNormal, 1.0};
  const int threads = at::get_num_threads();
  const at::Tensor one = at::empty({99999}, at::kFloat), three = at::empty({99999}, at::kFloat);
  at::set_num_threads(1);
  fill_from(normal, 3, "x", one);
  at::set_num_threads(3);
  fill_from(normal, 3, "x", three);
  at::set_num_threads(threads);
  aspis::test::check_bitwise("threads", one, three);
}

TEST_CASE("initialisation: every dtype and any strides hold the same values, rounded once") {
  const Distribution normal{Distribution::Kind::kNormal, 0.5};
  const at::Tensor exact = at::empty({7, 9}, at::kDouble);
  fill_from(normal, 3, "x", exact);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor rounded = at::empty({7, 9}, type);
    fill_from(normal, 3, "x", rounded);
    aspis::test::check_bitwise("rounded", rounded, exact.to(type));
  }
  const at::Tensor transposed = at::empty({9, 7}, at::kFloat).t();
  fill_from(normal, 3, "x", transposed);
  aspis::test::check_bitwise("transposed", transposed, exact.to(at::kFloat));
}

TEST_CASE("initialisation: a parameter without a rule is refused by name") {
  CHECK(aspis::test::message_of(
            [] { initial_distribution(every_kind("study"), "layers.0.mixer.extra", {3}); }) ==
        "no rule draws the parameter extra of the layer kind 'M': models/initialisation.cpp needs "
        "one");
  CHECK(aspis::test::message_of([] { initial_distribution(every_kind("study"), "extra", {3}); }) ==
        "no rule draws the parameter extra: models/initialisation.cpp needs one");
}
