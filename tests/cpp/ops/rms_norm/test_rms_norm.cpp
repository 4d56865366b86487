#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/alloc.h"
#include "ops/rms_norm/rms_norm.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;
using at::Tensor;

namespace {

Tensor random(at::IntArrayRef sizes) {
  return at::randn(sizes, at::kDouble);
}

struct Poisoned {
  bool before = aspis::poison_allocations(true);
  ~Poisoned() { aspis::poison_allocations(before); }
};

// Forward and gradients of the kernel against the reference, for x as it comes (strides kept).
void compare(const std::string& what, const RmsNormArgs& args) {
  const Poisoned poisoned;
  std::vector<Tensor> got, want;
  const Tensor dy = random(args.x.sizes());
  for (const bool ours : {true, false}) {
    RmsNormArgs a = args;
    a.x = args.x.detach().requires_grad_(true);
    std::vector<Tensor> inputs{a.x};
    if (args.weight) {
      a.weight = args.weight->detach().requires_grad_(true);
      inputs.push_back(*a.weight);
    }
    const Tensor y = ours ? rms_norm(a) : rms_norm_ref(a);
    auto grads = torch::autograd::grad({y}, inputs, {dy});
    grads.insert(grads.begin(), y);
    (ours ? got : want) = grads;
  }
  for (size_t i = 0; i < got.size(); ++i) {
    check_equal_in_double(what + ": y, dx, dweight: " + std::to_string(i), got[i], want[i]);
  }
}

}  // namespace

TEST_CASE("rms_norm: kernel equals the reference") {
  const double eps =
      0.1;  // the gradient of a single channel is eps / (x^2 + eps): a tiny one is all rounding
  for (int64_t d : {1, 2, 7, 8, 15, 16, 17, 33, 64, 131}) {
    for (int64_t rows : {1, 3, 31, 32, 33, 97}) {
      compare("rows", {random({rows, d}), random({d}), eps});
    }
    compare("no weight", {random({2, 5, d}), std::nullopt, eps});
    compare("one dimension", {random({d}), random({d}), eps});
  }
  compare("without eps", {random({3, 17}), random({17}), 0.0});
  for (int64_t group : {1, 4, 10, 20, 60}) {
    compare("groups", {random({35, 60}), random({60}), 1e-3, group});
  }
}

TEST_CASE("rms_norm: strides") {
  const Tensor w = random({12});
  compare("transposed", {random({3, 12, 5}).transpose(1, 2), w});
  compare("slice", {random({3, 5, 40}).slice(2, 7, 19), w});
  compare("rows apart", {random({6, 5, 12}).slice(0, 0, 6, 2), w});
  compare("expanded rows", {random({1, 12}).expand({5, 12}), w});
  compare("expanded channels", {random({5, 1}).expand({5, 12}), w});
  compare("weight with a stride", {random({5, 12}), random({24}).slice(0, 0, 24, 2)});
  const Tensor x = random({3, 12, 5}).transpose(1, 2);
  CHECK(rms_norm({x, w}).strides() == x.strides());
}

TEST_CASE("rms_norm: gradcheck") {
  for (const bool ours : {true, false}) {
    const auto f = [&](const std::vector<Tensor>& in) {
      const RmsNormArgs args{in[0], in[1], 1e-2, 3};
      return std::vector<Tensor>{ours ? rms_norm(args) : rms_norm_ref(args)};
    };
    check_gradients(ours ? "kernel" : "reference", f,
                    {random({2, 40, 6}).requires_grad_(true), random({6}).requires_grad_(true)});
  }
}

TEST_CASE("rms_norm: float32 and half types by the two-times rule") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto weight_type : {type, at::kFloat}) {
      const Tensor x = random({70, 96}).to(type), w = random({96}).to(weight_type);
      const Tensor dy = random({70, 96}).to(type);
      std::vector<std::vector<Tensor>> results;
      for (int kind = 0; kind < 3; ++kind) {  // ours, plain, exact
        RmsNormArgs a{x, w, 1e-5, 48};
        if (kind == 2) a = {x.to(at::kDouble), w.to(at::kDouble), 1e-5, 48};
        a.x = a.x.detach().requires_grad_(true);
        a.weight = a.weight->detach().requires_grad_(true);
        const Tensor y = kind == 0 ? rms_norm(a) : rms_norm_ref(a);
        auto grads = torch::autograd::grad({y}, {a.x, *a.weight}, {dy.to(y.scalar_type())});
        results.push_back({y, grads[0], grads[1]});
      }
      CHECK(results[0][0].scalar_type() == type);
      CHECK(results[0][1].scalar_type() == type);
      CHECK(results[0][2].scalar_type() == weight_type);
      for (int i = 0; i < 3; ++i) {
        check_two_times("y, dx, dweight: " + std::to_string(i), results[0][i], results[1][i],
                        results[2][i]);
      }
    }
  }
}

TEST_CASE("rms_norm: extreme values") {
  const Tensor x = at::cat({at::zeros({1, 40}), at::full({1, 40}, 1e-18), at::full({1, 40}, 1e17)});
  CHECK(at::isfinite(rms_norm({x, std::nullopt})).all().item<bool>());
  check_two_times("extremes", rms_norm({x, std::nullopt}), rms_norm_ref({x, std::nullopt}),
                  rms_norm_ref({x.to(at::kDouble), std::nullopt}));
  Tensor bad = at::randn({2, 40});
  bad[0][39].fill_(std::numeric_limits<float>::quiet_NaN());
  const Tensor y = rms_norm({bad, std::nullopt});
  CHECK(!at::isfinite(y[0]).any().item<bool>());
  CHECK(at::isfinite(y[1]).all().item<bool>());
}

TEST_CASE("rms_norm: the number of threads does not change a bit") {
  const int threads = at::get_num_threads();
  const Tensor x = at::randn({300, 50}), w = at::randn({50}), dy = at::randn({300, 50});
  std::vector<Tensor> first;
  for (int n : {1, 2, 3}) {
    at::set_num_threads(n);
    const Tensor y = rms_norm({x, w});
    const auto [dx, dweight] = rms_norm_bwd(dy, {x, w}, true);
    if (first.empty()) first = {y, dx, dweight};
    check_bitwise("y", y, first[0]);
    check_bitwise("dx", dx, first[1]);
    check_bitwise("dweight", dweight, first[2]);
  }
  at::set_num_threads(threads);
}

TEST_CASE("rms_norm: empty inputs") {
  const Poisoned poisoned;
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{0, 4}, {2, 0, 4}, {3, 0}, {0}, {0, 0}}) {
    const int64_t d = sizes.back();
    for (const bool ours : {true, false}) {
      const Tensor x = at::empty(sizes).requires_grad_(true),
                   w = at::randn({d}).requires_grad_(true);
      const RmsNormArgs args{x, w};
      const Tensor y = ours ? rms_norm(args) : rms_norm_ref(args);
      CHECK(y.sizes() == x.sizes());
      const auto grads = torch::autograd::grad({y.sum()}, {x, w});
      CHECK(grads[0].sizes() == x.sizes());
      CHECK(grads[1].equal(at::zeros({d})));
    }
  }
}

TEST_CASE("rms_norm: gradients only where needed") {
  const Tensor x = random({4, 6}), w = random({6}), dy = random({4, 6});
  CHECK(std::get<1>(rms_norm_bwd(dy, {x, w}, false)).numel() == 0);
  CHECK(std::get<1>(rms_norm_bwd(dy, {x, std::nullopt}, true)).numel() == 0);
  const Tensor leaf = w.detach().requires_grad_(true);
  const Tensor y = rms_norm({x, leaf});
  CHECK(torch::autograd::grad({y}, {leaf}, {dy})[0].sizes() == w.sizes());
}

TEST_CASE("rms_norm: second derivatives are refused") {
  const Tensor x = random({2, 3}).requires_grad_(true), w = random({3}).requires_grad_(true);
  const Tensor loss = rms_norm({x, w}).pow(2).sum();
  const auto grads = torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true);
  const std::string text =
      message_of([&] { torch::autograd::grad({grads[0].sum()}, {w}, {}, true, false, true); });
  CHECK(text.find("aspis::rms_norm: second derivatives are not supported") != std::string::npos);
}

TEST_CASE("rms_norm: messages") {
  const auto says = [](const RmsNormArgs& args, const std::string& text) {
    for (const char* device : {"cpu", "meta"}) {
      RmsNormArgs a = args;
      a.x = a.x.to(device);
      if (a.weight) a.weight = a.weight->to(device);
      const std::string got = message_of([&] { rms_norm(a); });
      INFO(got);
      CHECK(got.find(text) != std::string::npos);
    }
  };
  const Tensor x = at::randn({2, 6});
  says({x, at::randn({5})}, "rms_norm: weight must be (d=6), got (5)");
  says({x, at::randn({6, 1})}, "rms_norm: weight must be (d=6), got (6, 1)");
  says({x, at::randn({6}, at::kDouble)}, "rms_norm: weight must be Float (x's dtype)");
  says({at::randn({}), std::nullopt}, "rms_norm: x must be (..., d), got ()");
  says({at::empty({2, 6}, at::kInt), std::nullopt}, "rms_norm: x must be float32, float64");
  says({x, std::nullopt, -1.0}, "rms_norm: eps must be finite and not negative, got -1");
  says({x, std::nullopt, 1e-5, 4}, "rms_norm: group_size must be at least 1 and divide d=6, got 4");
  says({x, std::nullopt, 1e-5, 0}, "rms_norm: group_size must be at least 1 and divide d=6, got 0");
}

TEST_CASE("rms_norm: meta agrees") {
  const auto agree = [](const Tensor& real, const Tensor& meta) {
    CHECK(real.sizes() == meta.sizes());
    CHECK(real.strides() == meta.strides());
    CHECK(real.scalar_type() == meta.scalar_type());
  };
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Tensor& x :
         {at::randn({2, 3, 4}).to(type), at::randn({2, 4, 3}).to(type).transpose(1, 2),
          at::randn({2, 3, 9}).to(type).slice(2, 1, 5)}) {
      const Tensor w = at::randn({4}), xm = x.to("meta"), wm = w.to("meta");
      agree(rms_norm({x, w}), rms_norm({xm, wm}));
      for (const bool need : {true, false}) {
        const auto real = rms_norm_bwd(x, {x, w}, need), meta = rms_norm_bwd(xm, {xm, wm}, need);
        agree(std::get<0>(real), std::get<0>(meta));
        agree(std::get<1>(real), std::get<1>(meta));
      }
    }
  }
}
