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
#include "ops/gated_rms_norm/gated_rms_norm.h"
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

// y and the gradients of all tensors that are there.
std::vector<Tensor> run(const GatedRmsNormArgs& args, bool ours, const Tensor& dy) {
  GatedRmsNormArgs a = args;
  a.x = args.x.detach().requires_grad_(true);
  std::vector<Tensor> inputs{a.x};
  for (auto* optional : {&a.z, &a.weight}) {
    if (!*optional) continue;
    *optional = (*optional)->detach().requires_grad_(true);
    inputs.push_back(**optional);
  }
  const Tensor y = ours ? gated_rms_norm(a) : gated_rms_norm_ref(a);
  auto out = torch::autograd::grad({y}, inputs, {dy.to(y.scalar_type())});
  out.insert(out.begin(), y);
  return out;
}

void compare(const std::string& what, const GatedRmsNormArgs& args) {
  const Poisoned poisoned;
  const Tensor dy = random(args.x.sizes());
  const auto got = run(args, true, dy), want = run(args, false, dy);
  for (size_t i = 0; i < got.size(); ++i) {
    check_equal_in_double(what + ": y, then gradients: " + std::to_string(i), got[i], want[i]);
  }
}

}  // namespace

TEST_CASE("gated_rms_norm: kernel equals the reference") {
  const double eps =
      0.1;  // the gradient of a single channel is eps / (u^2 + eps): a tiny one is all rounding
  for (const bool before : {false, true}) {
    for (int64_t d : {1, 7, 8, 16, 17, 33, 131}) {
      for (int64_t rows : {1, 31, 32, 33, 97}) {
        compare("rows", {random({rows, d}), random({rows, d}), random({d}), eps, {}, before});
      }
      compare("no weight", {random({2, 5, d}), random({2, 5, d}), {}, eps, {}, before});
      compare("no gate", {random({2, 5, d}), {}, random({d}), eps, {}, before});
    }
    for (int64_t group : {1, 4, 10, 20, 60}) {
      compare("groups", {random({35, 60}), random({35, 60}), random({60}), 1e-3, group, before});
    }
  }
}

TEST_CASE("gated_rms_norm: without a gate it is rms_norm") {
  const Tensor x = random({9, 20}), w = random({20});
  for (const bool before : {false, true}) {
    check_bitwise("no gate", gated_rms_norm({x, {}, w, 1e-5, 5, before}),
                  rms_norm({x, w, 1e-5, 5}));
  }
}

TEST_CASE("gated_rms_norm: strides") {
  const Tensor w = random({12});
  for (const bool before : {false, true}) {
    const Tensor packed = random({3, 5, 40});
    compare("slices of a projection",
            {packed.slice(2, 20, 32), packed.slice(2, 3, 15), w, 1e-5, 6, before});
    compare("transposed", {random({3, 12, 5}).transpose(1, 2),
                           random({5, 3, 12}).transpose(0, 1),
                           w,
                           1e-5,
                           {},
                           before});
    compare("expanded",
            {random({1, 12}).expand({5, 12}), random({5, 1}).expand({5, 12}), w, 1e-5, {}, before});
  }
  const Tensor x = random({3, 12, 5}).transpose(1, 2);
  CHECK(gated_rms_norm({x, random({3, 5, 12}), w}).strides() == x.strides());
}

TEST_CASE("gated_rms_norm: gradcheck") {
  for (const bool ours : {true, false}) {
    for (const bool before : {false, true}) {
      const auto f = [&](const std::vector<Tensor>& in) {
        const GatedRmsNormArgs args{in[0], in[1], in[2], 1e-2, 3, before};
        return std::vector<Tensor>{ours ? gated_rms_norm(args) : gated_rms_norm_ref(args)};
      };
      check_gradients(ours ? "kernel" : "reference", f,
                      {random({2, 40, 6}).requires_grad_(true),
                       random({2, 40, 6}).requires_grad_(true), random({6}).requires_grad_(true)});
    }
  }
}

TEST_CASE("gated_rms_norm: float32 and half types by the two-times rule") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto weight_type : {type, at::kFloat}) {
      for (const bool before : {false, true}) {
        const Tensor x = random({70, 96}).to(type), z = random({70, 96}).to(type);
        const Tensor w = random({96}).to(weight_type), dy = random({70, 96}).to(type);
        const GatedRmsNormArgs args{x, z, w, 1e-5, 48, before};
        const GatedRmsNormArgs exact{
            x.to(at::kDouble), z.to(at::kDouble), w.to(at::kDouble), 1e-5, 48, before};
        const auto got = run(args, true, dy), plain = run(args, false, dy),
                   ref = run(exact, false, dy);
        CHECK(got[0].scalar_type() == type);
        CHECK(got[2].scalar_type() == type);
        CHECK(got[3].scalar_type() == weight_type);
        for (int i = 0; i < 4; ++i) {
          check_two_times("y, dx, dz, dweight: " + std::to_string(i), got[i], plain[i], ref[i]);
        }
      }
    }
  }
}

TEST_CASE("gated_rms_norm: extreme gates stay finite") {
  const Tensor z =
      at::cat({at::full({1, 40}, -200.0), at::full({1, 40}, 200.0), at::full({1, 40}, -80.0)});
  const Tensor x = at::randn({3, 40});
  for (const bool before : {false, true}) {
    for (const Tensor& out :
         run({x, z, at::randn({40}), 1e-5, {}, before}, true, at::randn({3, 40}))) {
      CHECK(at::isfinite(out).all().item<bool>());
    }
  }
}

TEST_CASE("gated_rms_norm: the number of threads does not change a bit") {
  const int threads = at::get_num_threads();
  const Tensor dy = at::randn({300, 50});
  const GatedRmsNormArgs args{at::randn({300, 50}), at::randn({300, 50}), at::randn({50})};
  std::vector<Tensor> first;
  for (int n : {1, 2, 3}) {
    at::set_num_threads(n);
    const auto out = run(args, true, dy);
    if (first.empty()) first = out;
    for (size_t i = 0; i < out.size(); ++i)
      check_bitwise("output " + std::to_string(i), out[i], first[i]);
  }
  at::set_num_threads(threads);
}

TEST_CASE("gated_rms_norm: empty inputs") {
  const Poisoned poisoned;
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{0, 4}, {2, 0, 4}, {3, 0}, {0}}) {
    const int64_t d = sizes.back();
    for (const bool ours : {true, false}) {
      const auto out =
          run({at::empty(sizes), at::empty(sizes), at::randn({d})}, ours, at::empty(sizes));
      for (int i : {0, 1, 2}) CHECK(out[i].sizes() == at::IntArrayRef(sizes));
      CHECK(out[3].equal(at::zeros({d})));
    }
  }
}

TEST_CASE("gated_rms_norm: second derivatives are refused") {
  const Tensor x = random({2, 3}).requires_grad_(true), z = random({2, 3}).requires_grad_(true);
  const Tensor loss = gated_rms_norm({x, z}).pow(2).sum();
  const auto grads = torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true);
  const std::string text =
      message_of([&] { torch::autograd::grad({grads[0].sum()}, {z}, {}, true, false, true); });
  CHECK(text.find("aspis::gated_rms_norm: second derivatives are not supported") !=
        std::string::npos);
}

TEST_CASE("gated_rms_norm: messages") {
  const auto says = [](const GatedRmsNormArgs& args, const std::string& text) {
    for (const char* device : {"cpu", "meta"}) {
      GatedRmsNormArgs a = args;
      a.x = a.x.to(device);
      if (a.z) a.z = a.z->to(device);
      if (a.weight) a.weight = a.weight->to(device);
      const std::string got = message_of([&] { gated_rms_norm(a); });
      INFO(got);
      CHECK(got.find(text) != std::string::npos);
    }
  };
  const Tensor x = at::randn({2, 6});
  says({x, at::randn({2, 5})}, "gated_rms_norm: z must have x's shape (2, 6), got (2, 5)");
  says({x, at::randn({6})}, "gated_rms_norm: z must have x's shape (2, 6), got (6)");
  says({x, x.to(at::kHalf)}, "gated_rms_norm: z must be Float (x's dtype), got Half");
  says({x, x, at::randn({5})}, "gated_rms_norm: weight must be (d=6), got (5)");
  says({x, x, {}, 1e-5, 4}, "gated_rms_norm: group_size must be at least 1 and divide d=6, got 4");
}

TEST_CASE("gated_rms_norm: meta agrees, gradients only where needed") {
  const auto agree = [](const Tensor& real, const Tensor& meta) {
    CHECK(real.sizes() == meta.sizes());
    CHECK(real.strides() == meta.strides());
    CHECK(real.scalar_type() == meta.scalar_type());
  };
  const Tensor w = at::randn({4}), wm = w.to("meta");
  for (const Tensor& x : {at::randn({2, 3, 4}).to(at::kHalf), at::randn({2, 4, 3}).transpose(1, 2),
                          at::randn({2, 3, 9}).slice(2, 1, 5)}) {
    const Tensor xm = x.to("meta");
    agree(gated_rms_norm({x, x, w}), gated_rms_norm({xm, xm, wm}));
    for (const bool gate : {true, false}) {
      for (const bool need : {true, false}) {
        GatedRmsNormArgs real{x, {}, w}, meta{xm, {}, wm};
        if (gate) real.z = x, meta.z = xm;
        const auto a = gated_rms_norm_bwd(x, real, need), b = gated_rms_norm_bwd(xm, meta, need);
        agree(std::get<0>(a), std::get<0>(b));
        agree(std::get<1>(a), std::get<1>(b));
        agree(std::get<2>(a), std::get<2>(b));
        CHECK(std::get<1>(a).numel() == (gate ? x.numel() : 0));
        CHECK(std::get<2>(a).numel() == (need ? 4 : 0));
      }
    }
  }
}
