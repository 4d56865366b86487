#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::optim::AdamW;
using aspis::optim::NamedTensors;
using aspis::optim::OptimConfig;
using aspis::optim::Parameter;
using aspis::test::message_of;
using Catch::Matchers::Contains;

namespace {

at::Tensor random(at::IntArrayRef sizes, at::ScalarType dtype, uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randn(sizes, generator, at::TensorOptions().dtype(at::kDouble)).to(dtype);
}

// The parameters of a toy model: shapes, decay, lr scale, a frozen one.
std::vector<Parameter> toy(at::ScalarType dtype) {
  std::vector<Parameter> out{
      {"embedding.weight", random({7, 5}, dtype, 1), true, 1.0},
      {"norm.weight", random({5}, dtype, 2), false, 1.0},
      {"mixer.A_log", random({3}, dtype, 3), false, 1.0},
      {"adapter.weight", random({4, 5}, dtype, 4), true, 0.5},
      {"transposed.weight", random({33, 6}, dtype, 5).t(), true, 1.0},
      {"scalar", random({}, dtype, 6), false, 0.5},
      {"empty", random({0, 3}, dtype, 7), true, 1.0},
  };
  for (Parameter& p : out) p.tensor.set_requires_grad(true);
  out.push_back({"frozen.weight", random({9}, dtype, 8), true, 1.0});
  return out;
}

void set_gradients(std::vector<Parameter>& parameters, uint64_t step) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    at::Tensor& tensor = parameters[i].tensor;
    if (!tensor.requires_grad()) continue;
    tensor.mutable_grad() = random(tensor.sizes(), tensor.scalar_type(), 100 * step + i);
  }
}

// The textbook formula, element by element in T.
template <typename T>
struct PlainAdamW {
  std::vector<T> p, m, v;
  int t = 0;
  explicit PlainAdamW(const at::Tensor& start) {
    const auto flat = start.detach().to(c10::CppTypeToScalarType<T>::value).contiguous();
    p.assign(flat.template data_ptr<T>(), flat.template data_ptr<T>() + flat.numel());
    m.assign(p.size(), T(0));
    v.assign(p.size(), T(0));
  }
  void step(const at::Tensor& gradient, const OptimConfig& c, double lr, double decay) {
    const auto flat = gradient.to(c10::CppTypeToScalarType<T>::value).contiguous();
    const T* g = flat.template data_ptr<T>();
    ++t;
    const double b1 = c.betas[0], b2 = c.betas[1];
    const double c1 = 1 - std::pow(b1, t), c2 = 1 - std::pow(b2, t);
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] -= static_cast<T>(lr * decay) * p[i];
      m[i] = static_cast<T>(b1) * m[i] + static_cast<T>(1 - b1) * g[i];
      v[i] = static_cast<T>(b2) * v[i] + static_cast<T>(1 - b2) * g[i] * g[i];
      const T denominator = std::sqrt(v[i]) / static_cast<T>(std::sqrt(c2)) + static_cast<T>(c.eps);
      p[i] -= static_cast<T>(lr / c1) * m[i] / denominator;
    }
  }
  at::Tensor result(const at::Tensor& like) const {
    return at::tensor(p, c10::CppTypeToScalarType<T>::value).view(like.sizes());
  }
};

}  // namespace

TEST_CASE("adamw: equals the textbook formula") {
  OptimConfig config;
  config.betas = {0.9, 0.95};
  config.weight_decay = 0.1;
  const std::vector<double> rates{1e-2, 3e-2, 2e-2, 1e-3, 0.0, 5e-2};
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    auto parameters = toy(dtype);
    std::vector<PlainAdamW<double>> exact;
    std::vector<PlainAdamW<float>> rough;
    for (const Parameter& p : parameters) {
      exact.emplace_back(p.tensor);
      rough.emplace_back(p.tensor);
    }
    const at::Tensor frozen_before = parameters.back().tensor.clone();
    AdamW optimizer(config, parameters);
    for (size_t s = 0; s < rates.size(); ++s) {
      set_gradients(parameters, s);
      for (size_t i = 0; i + 1 < parameters.size(); ++i) {
        const Parameter& p = parameters[i];
        const double decay = p.decay ? config.weight_decay : 0.0;
        exact[i].step(p.tensor.grad(), config, rates[s] * p.lr_scale, decay);
        rough[i].step(p.tensor.grad(), config, rates[s] * p.lr_scale, decay);
      }
      optimizer.step(rates[s]);
    }
    CHECK(optimizer.steps() == 6);
    for (size_t i = 0; i + 1 < parameters.size(); ++i) {
      const at::Tensor ours = parameters[i].tensor.detach();
      const at::Tensor wanted = exact[i].result(ours);
      if (dtype == at::kDouble) {
        aspis::test::check_equal_in_double(parameters[i].name, ours, wanted);
      } else {
        aspis::test::check_two_times(parameters[i].name, ours, rough[i].result(ours), wanted);
      }
    }
    aspis::test::check_bitwise("frozen", parameters.back().tensor, frozen_before);
  }
}

TEST_CASE("adamw: no weight decay where the hint says so") {
  OptimConfig config;
  config.weight_decay = 0.5;
  auto parameters = toy(at::kDouble);
  std::vector<at::Tensor> before;
  for (Parameter& p : parameters) {
    before.push_back(p.tensor.detach().clone());
    if (p.tensor.requires_grad()) p.tensor.mutable_grad() = at::zeros_like(p.tensor.detach());
  }
  AdamW(config, parameters).step(0.1);
  for (size_t i = 0; i + 1 < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    const double kept = p.decay ? 1.0 - 0.1 * p.lr_scale * 0.5 : 1.0;
    aspis::test::check_equal_in_double(p.name, p.tensor.detach(), before[i] * kept);
    if (!p.decay) aspis::test::check_bitwise(p.name, p.tensor.detach(), before[i]);
  }
}

TEST_CASE("adamw: the table counts tensors and elements of each group") {
  const auto parameters = toy(at::kFloat);
  AdamW optimizer(OptimConfig{}, parameters);
  const std::string table = optimizer.group_table();
  INFO(table);
  CHECK(optimizer.trained_count() == 35 + 5 + 3 + 20 + 198 + 1);
  CHECK_THAT(table, Contains("decay     lr scale  dtype     device   tensors      elements"));
  CHECK_THAT(table, Contains("0.1       1         float32   cpu            3           233"));
  CHECK_THAT(table, Contains("none      1         float32   cpu            2             8"));
  CHECK_THAT(table, Contains("0.1       0.5       float32   cpu            1            20"));
  CHECK_THAT(table, Contains("none      0.5       float32   cpu            1             1"));
  CHECK_THAT(table, Contains("frozen                                       1             9"));
}

TEST_CASE("adamw: save, load and continue gives the same bits") {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    auto straight = toy(dtype);
    AdamW one(OptimConfig{}, straight);
    for (uint64_t s = 0; s < 3; ++s) {
      set_gradients(straight, s);
      one.step(1e-2);
    }
    auto resumed = toy(dtype);
    NamedTensors saved;
    for (const auto& [name, tensor] : one.state()) saved[name] = tensor.clone();
    for (size_t i = 0; i < resumed.size(); ++i) {
      const at::NoGradGuard no_grad;
      resumed[i].tensor.copy_(straight[i].tensor);
    }
    AdamW two(OptimConfig{}, resumed);
    two.load_state(saved);
    CHECK(two.steps() == 3);
    for (uint64_t s = 3; s < 6; ++s) {
      set_gradients(straight, s);
      set_gradients(resumed, s);
      one.step(1e-2);
      two.step(1e-2);
    }
    for (size_t i = 0; i < resumed.size(); ++i) {
      aspis::test::check_bitwise(resumed[i].name, resumed[i].tensor.detach(),
                                 straight[i].tensor.detach());
    }
    const auto state_one = one.state(), state_two = two.state();
    REQUIRE(state_one.size() == state_two.size());
    CHECK(state_one.size() == 1 + 2 * 7);
    for (const auto& [name, tensor] : state_one) {
      aspis::test::check_bitwise(name, state_two.at(name), tensor);
    }
  }
}

TEST_CASE("adamw: a state that does not fit is refused whole") {
  auto parameters = toy(at::kFloat);
  AdamW optimizer(OptimConfig{}, parameters);
  set_gradients(parameters, 1);
  optimizer.step(1e-2);
  NamedTensors state;
  for (const auto& [name, tensor] : optimizer.state()) state[name] = tensor.clone().add_(1);
  const at::Tensor before = optimizer.state().at("exp_avg.norm.weight").clone();

  auto bad = state;
  bad.erase("exp_avg.mixer.A_log");
  bad["exp_avg.mixer.B_log"] = at::zeros({3});
  bad["exp_avg_sq.embedding.weight"] = at::zeros({5, 7});
  bad["exp_avg.scalar"] = at::zeros({}, at::kDouble);
  CHECK_THROWS_AS(optimizer.load_state(bad), aspis::DataError);
  const std::string message = message_of([&] { optimizer.load_state(bad); });
  CHECK_THAT(message, Contains("exp_avg.mixer.A_log is missing"));
  CHECK_THAT(message, Contains("exp_avg.mixer.B_log belongs to no trained parameter"));
  CHECK_THAT(message, Contains("exp_avg_sq.embedding.weight must have shape [7, 5], got [5, 7]"));
  CHECK_THAT(message, Contains("exp_avg.scalar must be Float, got Double"));
  CHECK(optimizer.steps() == 1);
  aspis::test::check_bitwise("untouched", optimizer.state().at("exp_avg.norm.weight"), before);

  bad = state;
  bad["step"] = at::scalar_tensor(-3, at::kLong);
  CHECK_THAT(message_of([&] { optimizer.load_state(bad); }), Contains("step -3, below 0"));
  optimizer.load_state(state);
  CHECK(optimizer.steps() == 2);
}

TEST_CASE("adamw: clipping scales to the limit and returns the norm before") {
  auto parameters = toy(at::kDouble);
  AdamW optimizer(OptimConfig{}, parameters);
  set_gradients(parameters, 3);
  double square = 0.0;
  std::vector<at::Tensor> before;
  for (size_t i = 0; i + 1 < parameters.size(); ++i) {
    before.push_back(parameters[i].tensor.grad().clone());
    square += before.back().square().sum().item<double>();
  }
  const auto norm_of = [](double value) { return at::scalar_tensor(value, at::kDouble); };
  const at::Tensor wanted = norm_of(std::sqrt(square));

  aspis::test::check_equal_in_double("no limit", norm_of(optimizer.clip_gradients({})), wanted);
  aspis::test::check_equal_in_double("far", norm_of(optimizer.clip_gradients(1e6)), wanted);
  for (size_t i = 0; i + 1 < parameters.size(); ++i) {
    aspis::test::check_bitwise(parameters[i].name, parameters[i].tensor.grad(), before[i]);
  }
  aspis::test::check_equal_in_double("near", norm_of(optimizer.clip_gradients(0.5)), wanted);
  for (size_t i = 0; i + 1 < parameters.size(); ++i) {
    aspis::test::check_equal_in_double(parameters[i].name, parameters[i].tensor.grad(),
                                       before[i] * (0.5 / wanted.item<double>()));
  }
  aspis::test::check_equal_in_double("after", norm_of(optimizer.clip_gradients({})), norm_of(0.5));
}

TEST_CASE("adamw: a norm that is not finite is reported and nothing is scaled") {
  for (const double bad : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    auto parameters = toy(at::kFloat);
    AdamW optimizer(OptimConfig{}, parameters);
    set_gradients(parameters, 3);
    parameters[4].tensor.mutable_grad()[1][2] = bad;
    const at::Tensor before = parameters[0].tensor.grad().clone();
    CHECK_FALSE(std::isfinite(optimizer.clip_gradients(0.5)));
    aspis::test::check_bitwise("left alone", parameters[0].tensor.grad(), before);
  }
  // Squares that overflow float32 do not overflow the sum.
  CHECK(aspis::optim::global_norm({at::full({4}, 1e30f)}) == 2.0 * static_cast<double>(1e30f));
}

TEST_CASE("adamw: the norm has the same bits for any number of threads") {
  std::vector<at::Tensor> gradients;
  for (const int64_t size : {1, 7, 32767, 32768, 32769, 300001}) {
    gradients.push_back(random({size}, at::kFloat, static_cast<uint64_t>(size)));
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = aspis::optim::global_norm(gradients);
  at::set_num_threads(4);
  const double four = aspis::optim::global_norm(gradients);
  at::set_num_threads(3);
  const double three = aspis::optim::global_norm(gradients);
  at::set_num_threads(threads);
  CHECK(one == four);
  CHECK(one == three);
  double square = 0.0;
  for (const at::Tensor& g : gradients) square += g.to(at::kDouble).square().sum().item<double>();
  aspis::test::check_equal_in_double("norm", at::scalar_tensor(one, at::kDouble),
                                     at::scalar_tensor(std::sqrt(square), at::kDouble));
  CHECK(aspis::optim::global_norm({}) == 0.0);
}

TEST_CASE("adamw: what cannot be trained is refused by name") {
  auto parameters = toy(at::kFloat);
  AdamW optimizer(OptimConfig{}, parameters);
  set_gradients(parameters, 1);
  parameters[1].tensor.mutable_grad().reset();
  CHECK_THAT(message_of([&] { optimizer.step(1e-2); }),
             Contains("parameter norm.weight has no gradient"));
  CHECK(optimizer.steps() == 0);
  set_gradients(parameters, 1);
  CHECK_THAT(message_of([&] { optimizer.step(std::nan("")); }), Contains("lr must be a number"));
  optimizer.zero_gradients();
  for (const Parameter& p : parameters) CHECK_FALSE(p.tensor.grad().defined());

  const auto refused = [](std::vector<Parameter> list) {
    return message_of([&] { AdamW(OptimConfig{}, std::move(list)); });
  };
  const at::Tensor plain = at::zeros({2}).set_requires_grad(true);
  CHECK_THAT(refused({{"a", plain}, {"a", plain}}), Contains("the name a is given twice"));
  CHECK_THAT(refused({{"a", at::zeros({2}, at::kBFloat16)}}),
             Contains("parameter a must be float32 or float64, got BFloat16"));
  CHECK_THAT(refused({{"a", at::zeros({4}).slice(0, 0, 4, 2)}}), Contains("must be dense"));
  CHECK_THAT(refused({{"a", plain, true, -1.0}}), Contains("lr_scale must be a number from 0"));
}
