#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "core/alloc.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/linear_cross_entropy/params.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;
using at::Tensor;

namespace {

struct Poisoned {
  bool before = aspis::poison_allocations(true);
  ~Poisoned() { aspis::poison_allocations(before); }
};

LinearCrossEntropyArgs random_args(int64_t t, int64_t d, int64_t v,
                                   at::ScalarType type = at::kDouble) {
  LinearCrossEntropyArgs args;
  args.hidden = at::randn({t, d}, at::kDouble).to(type);
  args.weight = at::randn({v, d}, at::kDouble).to(type);
  args.targets = at::randint(v, {t}, at::kLong);
  return args;
}

LinearCrossEntropyArgs in_double(LinearCrossEntropyArgs args) {
  args.hidden = args.hidden.to(at::kDouble);
  args.weight = args.weight.to(at::kDouble);
  return args;
}

// loss_sum, dhidden, dweight, num_valid; the loss is multiplied by 0.25 before backward.
std::vector<Tensor> run(const LinearCrossEntropyArgs& args, bool ours) {
  LinearCrossEntropyArgs a = args;
  a.hidden = args.hidden.detach().requires_grad_(true);
  a.weight = args.weight.detach().requires_grad_(true);
  const auto [loss, valid] = ours ? linear_cross_entropy(a) : linear_cross_entropy_ref(a);
  const auto grads = torch::autograd::grad({loss * 0.25}, {a.hidden, a.weight});
  return {loss, grads[0], grads[1], valid};
}

void compare(const std::string& what, const LinearCrossEntropyArgs& args) {
  const Poisoned poisoned;
  const auto got = run(args, true), want = run(args, false);
  for (int i = 0; i < 3; ++i) {
    check_equal_in_double(what + ": loss, dhidden, dweight: " + std::to_string(i), got[i], want[i]);
  }
  INFO(what);
  CHECK(got[3].item<int64_t>() == want[3].item<int64_t>());
  const TokenNllArgs nll{args.hidden, args.weight, args.targets, args.ignore_index,
                         args.logit_scale};
  check_equal_in_double(what + ": token_nll", token_nll(nll), token_nll_ref(nll));
}

// Every third target ignored.
void ignore_some(LinearCrossEntropyArgs& args) {
  args.targets.slice(0, 0, args.targets.size(0), 3).fill_(args.ignore_index);
}

}  // namespace

TEST_CASE("linear_cross_entropy: kernel equals the reference") {
  for (int64_t v : {1, 2, 7, 8, 9, 16, 17, 511, 512, 513, 1100}) {
    for (int64_t t : {1, 2, 13}) {
      auto args = random_args(t, 5, v);
      compare("plain", args);
      args.token_weights = at::rand({t});
      args.label_smoothing = 0.1;
      args.z_loss = 0.01;
      args.logit_scale = 0.7;
      compare("all options", args);
      ignore_some(args);
      compare("some ignored", args);
      args.label_smoothing = 1.0;
      args.logit_scale = -1.5;
      compare("only smoothing, negative scale", args);
    }
  }
}

TEST_CASE("linear_cross_entropy: several chunks of tokens") {
  const int64_t v = 4099, chunk = tokens_per_chunk(v);
  REQUIRE(chunk == 256);
  for (int64_t t : {chunk - 1, chunk, chunk + 1, 2 * chunk + 3}) {
    auto args = random_args(t, 3, v);
    compare("all valid", args);
    ignore_some(args);
    args.token_weights = at::rand({t});
    compare("some ignored", args);
  }
  CHECK(tokens_per_chunk(1) == 1 << 20);
  CHECK(tokens_per_chunk(50288) == 166);
  CHECK(tokens_per_chunk(262144) == 32);
  CHECK(tokens_per_chunk(int64_t{1} << 24) == 1);
}

TEST_CASE("linear_cross_entropy: strides") {
  auto args = random_args(12, 6, 10);
  args.hidden = at::randn({6, 12}, at::kDouble).t();
  args.weight = at::randn({10, 15}, at::kDouble).slice(1, 2, 14, 2);
  args.targets = at::randint(10, {24}, at::kLong).slice(0, 0, 24, 2);
  args.token_weights = at::rand({24}).slice(0, 1, 24, 2);
  compare("strided", args);
  args.hidden = at::randn({1, 6}, at::kDouble).expand({12, 6});
  args.token_weights = at::rand({1}).expand({12});
  compare("expanded", args);
}

TEST_CASE("linear_cross_entropy: gradcheck") {
  for (const bool ours : {true, false}) {
    auto args = random_args(9, 4, 11);
    args.token_weights = at::rand({9});
    args.label_smoothing = 0.2;
    args.z_loss = 0.05;
    args.logit_scale = 1.3;
    ignore_some(args);
    const auto f = [&](const std::vector<Tensor>& in) {
      args.hidden = in[0];
      args.weight = in[1];
      return std::vector<Tensor>{
          std::get<0>(ours ? linear_cross_entropy(args) : linear_cross_entropy_ref(args))};
    };
    check_gradients(ours ? "kernel" : "reference", f,
                    {at::randn({9, 4}, at::kDouble).requires_grad_(true),
                     at::randn({11, 4}, at::kDouble).requires_grad_(true)});
  }
}

TEST_CASE("linear_cross_entropy: float32 and half types by the two-times rule") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    auto args = random_args(100, 24, 3000, type);
    args.token_weights = at::rand({100});
    args.label_smoothing = 0.1;
    args.z_loss = 1e-3;
    ignore_some(args);
    const auto got = run(args, true), plain = run(args, false), ref = run(in_double(args), false);
    CHECK(got[0].scalar_type() == at::kFloat);
    CHECK(got[1].scalar_type() == type);
    CHECK(got[2].scalar_type() == type);
    for (int i = 0; i < 3; ++i) {
      check_two_times("loss, dhidden, dweight: " + std::to_string(i), got[i], plain[i], ref[i]);
    }
    const TokenNllArgs nll{args.hidden, args.weight, args.targets};
    TokenNllArgs exact = nll;
    exact.hidden = exact.hidden.to(at::kDouble);
    exact.weight = exact.weight.to(at::kDouble);
    CHECK(token_nll(nll).scalar_type() == at::kFloat);
    check_two_times("token_nll", token_nll(nll), token_nll_ref(nll), token_nll_ref(exact));
  }
}

TEST_CASE("linear_cross_entropy: a float16 dweight is scaled before it is rounded") {
  // Each token adds 8 (1 - 1/2) to one element of dweight: the sum leaves float16, the mean does
  // not.
  const int64_t t = 20000;
  const Tensor hidden = at::full({t, 1}, 8.0).to(at::kHalf);
  const Tensor weight = at::zeros({2, 1}).to(at::kHalf).requires_grad_(true);
  const auto [loss, valid] = linear_cross_entropy({hidden, weight, at::zeros({t}, at::kLong)});
  const Tensor dweight = torch::autograd::grad({loss / valid}, {weight})[0];
  CHECK(dweight[0][0].item<double>() == -4.0);
  CHECK(dweight[1][0].item<double>() == 4.0);
}

TEST_CASE("linear_cross_entropy: extreme logits") {
  auto args = random_args(6, 3, 700, at::kFloat);
  args.hidden = args.hidden * 300;
  const auto got = run(args, true), plain = run(args, false), ref = run(in_double(args), false);
  for (int i = 0; i < 3; ++i) {
    CHECK(at::isfinite(got[i]).all().item<bool>());
    check_two_times("result " + std::to_string(i), got[i], plain[i], ref[i]);
  }
  // All logits far below zero, a row length that leaves a partial vector.
  args.weight = at::full({701, 3}, -100.0);
  args.hidden = at::ones({6, 3});
  args.targets.zero_();
  check_two_times("far below zero", std::get<0>(linear_cross_entropy(args)),
                  std::get<0>(linear_cross_entropy_ref(args)),
                  std::get<0>(linear_cross_entropy_ref(in_double(args))));
}

TEST_CASE("linear_cross_entropy: not a number stays visible") {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (int64_t row : {0, 5, 699}) {
      auto args = random_args(4, 3, 700, at::kFloat);
      args.weight[row].fill_(bad);
      args.targets.fill_(1);
      CHECK(!at::isfinite(std::get<0>(linear_cross_entropy(args))).item<bool>());
    }
  }
}

TEST_CASE("linear_cross_entropy: no tokens, all ignored, no channels") {
  auto args = random_args(0, 4, 5);
  compare("t = 0", args);
  CHECK(std::get<0>(linear_cross_entropy(args)).item<double>() == 0);
  args = random_args(6, 4, 5);
  args.targets.fill_(-100);
  compare("all ignored", args);
  CHECK(std::get<1>(linear_cross_entropy(args)).item<int64_t>() == 0);
  CHECK(run(args, true)[2].eq(0).all().item<bool>());
  args.ignore_index = 2;
  args.targets.fill_(2);
  compare("ignore_index inside the vocabulary", args);
  compare("d = 0", random_args(6, 0, 5));
}

TEST_CASE("linear_cross_entropy: gradients only where needed") {
  const auto args = random_args(6, 4, 5);
  for (const bool dhidden : {true, false}) {
    for (const bool dweight : {true, false}) {
      const auto out = linear_cross_entropy_fwd(args, dhidden, dweight);
      CHECK(std::get<2>(out).numel() == (dhidden ? args.hidden.numel() : 0));
      CHECK(std::get<3>(out).numel() == (dweight ? args.weight.numel() : 0));
      const auto grads = linear_cross_entropy_bwd(at::ones({}, at::kDouble), args.hidden,
                                                  args.weight, std::get<2>(out), std::get<3>(out));
      CHECK(std::get<0>(grads).numel() == (dhidden ? args.hidden.numel() : 0));
      CHECK(std::get<1>(grads).numel() == (dweight ? args.weight.numel() : 0));
    }
  }
  // Through autograd: each alone is the same as both together.
  const auto both = run(args, true);
  auto one = args;
  one.hidden = args.hidden.detach().requires_grad_(true);
  check_bitwise(
      "frozen weight",
      torch::autograd::grad({std::get<0>(linear_cross_entropy(one)) * 0.25}, {one.hidden})[0],
      both[1]);
  one = args;
  one.weight = args.weight.detach().requires_grad_(true);
  check_bitwise(
      "frozen hidden",
      torch::autograd::grad({std::get<0>(linear_cross_entropy(one)) * 0.25}, {one.weight})[0],
      both[2]);
}

TEST_CASE("linear_cross_entropy: row kernels do not depend on the number of threads") {
  const int threads = at::get_num_threads();
  const auto args =
      random_args(70, 1, 3000, at::kFloat);  // d = 1: the products have nothing to reorder
  std::vector<Tensor> first;
  for (int n : {1, 2, 3}) {
    at::set_num_threads(n);
    const auto [loss, valid, dhidden, dweight] = linear_cross_entropy_fwd(args, false, false);
    const Tensor nll = token_nll({args.hidden, args.weight, args.targets});
    if (first.empty()) first = {loss, nll};
    check_bitwise("loss", loss, first[0]);
    check_bitwise("nll", nll, first[1]);
  }
  at::set_num_threads(threads);
}

TEST_CASE("linear_cross_entropy: second derivatives are refused") {
  auto args = random_args(3, 2, 4);
  args.hidden.requires_grad_(true);
  args.weight.requires_grad_(true);
  const Tensor loss = std::get<0>(linear_cross_entropy(args));
  const auto grads = torch::autograd::grad({loss}, {args.hidden}, {}, true, /*create_graph=*/true);
  const std::string text = message_of(
      [&] { torch::autograd::grad({grads[0].sum()}, {args.weight}, {}, true, false, true); });
  CHECK(text.find("aspis::linear_cross_entropy: second derivatives are not supported") !=
        std::string::npos);
}

TEST_CASE("linear_cross_entropy: what is not differentiable is refused") {
  auto args = random_args(3, 2, 4, at::kFloat);
  args.token_weights = at::rand({3}).requires_grad_(true);
  CHECK(message_of([&] {
          linear_cross_entropy(args);
        }).find("token_weights is not differentiable") != std::string::npos);
  const Tensor hidden = args.hidden.requires_grad_(true);
  CHECK(message_of([&] {
          token_nll({hidden, args.weight, args.targets});
        }).find("aspis::token_nll: an input requires grad, but it is inference only") !=
        std::string::npos);
  const c10::NoGradGuard no_grad;
  CHECK(token_nll({hidden, args.weight, args.targets}).sizes() == args.targets.sizes());
}

TEST_CASE("linear_cross_entropy: messages") {
  const auto good = random_args(3, 2, 4, at::kFloat);
  const auto says = [&](const auto& change, const std::string& text) {
    for (const char* device : {"cpu", "meta"}) {
      auto args = good;
      change(args);
      args.hidden = args.hidden.to(device);
      args.weight = args.weight.to(device);
      args.targets = args.targets.to(device);
      if (args.token_weights) args.token_weights = args.token_weights->to(device);
      const std::string got = message_of([&] { linear_cross_entropy(args); });
      INFO(got);
      CHECK(got.find("linear_cross_entropy: " + text) != std::string::npos);
    }
  };
  using Args = LinearCrossEntropyArgs;
  says([](Args& a) { a.hidden = at::randn({1, 3, 2}); }, "hidden must be (t, d), got (1, 3, 2)");
  says([](Args& a) { a.weight = at::randn({4, 3}); }, "weight must be (v=4, d=2), got (4, 3)");
  says([](Args& a) { a.weight = at::randn({0, 2}); }, "weight must have at least one row");
  says([](Args& a) { a.weight = a.weight.to(at::kHalf); },
       "weight must be Float (hidden's dtype), got Half");
  says([](Args& a) { a.targets = at::zeros({4}, at::kLong); }, "targets must be (t=3), got (4)");
  says([](Args& a) { a.targets = at::zeros({3}, at::kInt); },
       "targets must be Long (token ids), got Int");
  says([](Args& a) { a.token_weights = at::rand({2}); }, "token_weights must be (t=3), got (2)");
  says([](Args& a) { a.token_weights = at::rand({3}, at::kDouble); },
       "token_weights must be Float");
  says([](Args& a) { a.label_smoothing = 1.5; }, "label_smoothing must be in [0, 1], got 1.5");
  says([](Args& a) { a.label_smoothing = -0.5; }, "label_smoothing must be in [0, 1], got -0.5");
  says([](Args& a) { a.z_loss = -1; }, "z_loss must be finite and not negative, got -1");
  says([](Args& a) { a.logit_scale = std::numeric_limits<double>::infinity(); },
       "logit_scale must be finite, got inf");
  for (int64_t target : {-1, 4}) {
    auto args = good;
    args.targets[1] = target;
    const std::string value =
        "targets[1] = " + std::to_string(target) +
        " is not a token of the vocabulary [0, v=4) and not ignore_index=-100";
    CHECK(message_of([&] { linear_cross_entropy(args); }).find("linear_cross_entropy: " + value) !=
          std::string::npos);
    CHECK(message_of([&] {
            token_nll({args.hidden, args.weight, args.targets});
          }).find("token_nll: " + value) != std::string::npos);
  }
}

TEST_CASE("linear_cross_entropy: meta agrees") {
  const auto agree = [](const Tensor& real, const Tensor& meta) {
    CHECK(real.sizes() == meta.sizes());
    CHECK(real.strides() == meta.strides());
    CHECK(real.scalar_type() == meta.scalar_type());
  };
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    auto args = random_args(6, 4, 5, type);
    args.hidden = args.hidden.t().contiguous().t();
    auto meta = args;
    meta.hidden = args.hidden.to("meta");
    meta.weight = args.weight.to("meta");
    meta.targets = args.targets.to("meta");
    agree(token_nll({args.hidden, args.weight, args.targets}),
          token_nll({meta.hidden, meta.weight, meta.targets}));
    for (const bool dhidden : {true, false}) {
      for (const bool dweight : {true, false}) {
        const auto a = linear_cross_entropy_fwd(args, dhidden, dweight);
        const auto b = linear_cross_entropy_fwd(meta, dhidden, dweight);
        agree(std::get<0>(a), std::get<0>(b));
        agree(std::get<1>(a), std::get<1>(b));
        agree(std::get<2>(a), std::get<2>(b));
        agree(std::get<3>(a), std::get<3>(b));
        const auto g = linear_cross_entropy_bwd(std::get<0>(a), args.hidden, args.weight,
                                                std::get<2>(a), std::get<3>(a));
        const auto h = linear_cross_entropy_bwd(std::get<0>(b), meta.hidden, meta.weight,
                                                std::get<2>(b), std::get<3>(b));
        agree(std::get<0>(g), std::get<0>(h));
        agree(std::get<1>(g), std::get<1>(h));
      }
    }
  }
}
