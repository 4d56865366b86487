#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/alloc.h"
#include "ops/add_rms_norm/add_rms_norm.h"
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

// y, new_residual and the gradients dx, dresidual[, dweight]. An undefined dy or dsum: that output
// is unused.
std::vector<Tensor> run(const AddRmsNormArgs& args, bool ours, const Tensor& dy,
                        const Tensor& dsum) {
  AddRmsNormArgs a = args;
  a.x = args.x.detach().requires_grad_(true);
  a.residual = args.residual.detach().requires_grad_(true);
  std::vector<Tensor> inputs{a.x, a.residual}, roots, seeds;
  if (a.weight) {
    a.weight = a.weight->detach().requires_grad_(true);
    inputs.push_back(*a.weight);
  }
  const auto [y, sum] = ours ? add_rms_norm(a) : add_rms_norm_ref(a);
  if (dy.defined()) roots.push_back(y), seeds.push_back(dy.to(y.scalar_type()));
  if (dsum.defined()) roots.push_back(sum), seeds.push_back(dsum.to(sum.scalar_type()));
  std::vector<Tensor> out{y, sum};
  for (const Tensor& grad :
       torch::autograd::grad(roots, inputs, seeds, std::nullopt, false, /*allow_unused=*/true)) {
    out.push_back(grad);
  }
  return out;
}

void compare(const std::string& what, const AddRmsNormArgs& args) {
  const Poisoned poisoned;
  const Tensor dy = random(args.x.sizes()), dsum = random(args.x.sizes());
  for (int used : {1, 2, 3}) {
    const Tensor d1 = used & 1 ? dy : Tensor(), d2 = used & 2 ? dsum : Tensor();
    const auto got = run(args, true, d1, d2), want = run(args, false, d1, d2);
    for (size_t i = 0; i < got.size(); ++i) {
      INFO("outputs used " << used << ", result " << i);
      REQUIRE(got[i].defined() == want[i].defined());
      if (got[i].defined()) check_equal_in_double(what, got[i], want[i]);
    }
  }
}

}  // namespace

TEST_CASE("add_rms_norm: kernel equals the reference") {
  const double eps =
      0.1;  // the gradient of a single channel is eps / (x^2 + eps): a tiny one is all rounding
  for (int64_t d : {1, 7, 8, 16, 17, 33, 131}) {
    for (int64_t rows : {1, 31, 32, 33, 97}) {
      compare("rows", {random({rows, d}), random({rows, d}), random({d}), eps});
    }
    compare("no weight", {random({2, 5, d}), random({2, 5, d}), std::nullopt, eps});
    compare("fp32 stays double", {random({d}), random({d}), random({d}), eps, true});
  }
}

TEST_CASE("add_rms_norm: strides") {
  const Tensor w = random({12});
  compare("transposed",
          {random({3, 12, 5}).transpose(1, 2), random({5, 3, 12}).transpose(0, 1), w});
  compare("slices", {random({3, 5, 40}).slice(2, 7, 19), random({3, 5, 30}).slice(2, 1, 13), w});
  compare("expanded", {random({1, 12}).expand({5, 12}), random({5, 1}).expand({5, 12}), w});
  const Tensor x = random({3, 12, 5}).transpose(1, 2),
               residual = random({5, 3, 12}).transpose(0, 1);
  const auto [y, sum] = add_rms_norm({x, residual, w});
  CHECK(y.strides() == x.strides());
  CHECK(sum.strides() == residual.strides());
}

TEST_CASE("add_rms_norm: gradcheck") {
  for (const bool ours : {true, false}) {
    const auto f = [&](const std::vector<Tensor>& in) {
      const AddRmsNormArgs args{in[0], in[1], in[2], 1e-2};
      const auto [y, sum] = ours ? add_rms_norm(args) : add_rms_norm_ref(args);
      return std::vector<Tensor>{y, sum};
    };
    check_gradients(ours ? "kernel" : "reference", f,
                    {random({2, 40, 6}).requires_grad_(true),
                     random({2, 40, 6}).requires_grad_(true), random({6}).requires_grad_(true)});
  }
}

TEST_CASE("add_rms_norm: dtypes and the two-times rule") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto residual_type : {type, at::kFloat}) {
      for (const bool fp32 : {false, true}) {
        const Tensor x = random({70, 96}).to(type), r = random({70, 96}).to(residual_type);
        const Tensor w = random({96}), dy = random({70, 96}).to(type);
        const Tensor dsum = random({70, 96}).to(type);
        const AddRmsNormArgs args{x, r, w.to(at::kFloat), 1e-5, fp32};
        const AddRmsNormArgs exact{x.to(at::kDouble), r.to(at::kDouble),
                                   args.weight->to(at::kDouble), 1e-5, fp32};
        const auto got = run(args, true, dy, dsum), plain = run(args, false, dy, dsum);
        const auto ref = run(exact, false, dy, dsum);
        CHECK(got[0].scalar_type() == type);
        CHECK(got[1].scalar_type() == (fp32 ? at::kFloat : residual_type));
        CHECK(got[2].scalar_type() == type);
        CHECK(got[3].scalar_type() == residual_type);
        CHECK(got[4].scalar_type() == at::kFloat);
        for (int i = 0; i < 4; ++i) {
          check_two_times("result " + std::to_string(i), got[i], plain[i], ref[i]);
        }
        // The backward reads the sum as it was stored: the honest plain computation is on that sum.
        const auto from_stored = run(
            {got[1].detach().to(at::kFloat), at::zeros({70, 96}), args.weight}, false, dy, dsum);
        check_two_times("dweight", got[4], from_stored[4], ref[4]);
      }
    }
  }
}

TEST_CASE("add_rms_norm: y comes from the unrounded sum") {
  const Tensor x = random({8, 64}).to(at::kBFloat16), r = random({8, 64}).to(at::kBFloat16);
  const auto rounded = add_rms_norm({x, r, std::nullopt, 1e-5, false});
  const auto precise = add_rms_norm({x, r, std::nullopt, 1e-5, true});
  check_bitwise("y", std::get<0>(rounded), std::get<0>(precise));
  check_bitwise("sum", std::get<1>(precise), x.to(at::kFloat) + r.to(at::kFloat));
}

TEST_CASE("add_rms_norm: the number of threads does not change a bit") {
  const int threads = at::get_num_threads();
  const Tensor dy = at::randn({300, 50}), dsum = at::randn({300, 50});
  const AddRmsNormArgs args{at::randn({300, 50}), at::randn({300, 50}), at::randn({50})};
  std::vector<Tensor> first;
  for (int n : {1, 2, 3}) {
    at::set_num_threads(n);
    const auto out = run(args, true, dy, dsum);
    if (first.empty()) first = out;
    for (size_t i = 0; i < out.size(); ++i)
      check_bitwise("output " + std::to_string(i), out[i], first[i]);
  }
  at::set_num_threads(threads);
}

TEST_CASE("add_rms_norm: empty inputs") {
  const Poisoned poisoned;
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{0, 4}, {2, 0, 4}, {3, 0}, {0}}) {
    const int64_t d = sizes.back();
    for (const bool ours : {true, false}) {
      const auto out = run({at::empty(sizes), at::empty(sizes), at::randn({d})}, ours,
                           at::empty(sizes), at::empty(sizes));
      for (int i : {0, 1, 2, 3}) CHECK(out[i].sizes() == at::IntArrayRef(sizes));
      CHECK(out[4].equal(at::zeros({d})));
    }
  }
}

TEST_CASE("add_rms_norm: no output aliases an input or another output") {
  const Tensor x = at::randn({3, 4}), r = at::randn({3, 4}), w = at::randn({4});
  const auto [y, sum] = add_rms_norm({x, r, w});
  for (const Tensor& out : {y, sum}) {
    CHECK(out.data_ptr() != x.data_ptr());
    CHECK(out.data_ptr() != r.data_ptr());
  }
  const auto [dx, dresidual, dweight] = add_rms_norm_bwd({x, r, sum, w, 1e-5, at::kFloat, true});
  CHECK(dx.numel() == 0);
  CHECK(dresidual.data_ptr() != r.data_ptr());
  CHECK(dweight.sizes() == w.sizes());
}

TEST_CASE("add_rms_norm: second derivatives are refused") {
  const Tensor x = random({2, 3}).requires_grad_(true), r = random({2, 3}).requires_grad_(true);
  const Tensor loss = std::get<0>(add_rms_norm({x, r})).pow(2).sum();
  const auto grads = torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true);
  const std::string text =
      message_of([&] { torch::autograd::grad({grads[0].sum()}, {r}, {}, true, false, true); });
  CHECK(text.find("aspis::add_rms_norm: second derivatives are not supported") !=
        std::string::npos);
}

TEST_CASE("add_rms_norm: messages") {
  const auto says = [](const AddRmsNormArgs& args, const std::string& text) {
    for (const char* device : {"cpu", "meta"}) {
      AddRmsNormArgs a = args;
      a.x = a.x.to(device);
      a.residual = a.residual.to(device);
      if (a.weight) a.weight = a.weight->to(device);
      const std::string got = message_of([&] { add_rms_norm(a); });
      INFO(got);
      CHECK(got.find(text) != std::string::npos);
    }
  };
  const Tensor x = at::randn({2, 6});
  says({x, at::randn({3, 6})}, "add_rms_norm: residual must have x's shape (2, 6), got (3, 6)");
  says({x, at::randn({6})}, "add_rms_norm: residual must have x's shape (2, 6), got (6)");
  says({x, x.to(at::kHalf)}, "add_rms_norm: residual must be Float (x's dtype) or Float, got Half");
  says({x, x, at::randn({5})}, "add_rms_norm: weight must be (d=6), got (5)");
  says({x, x, std::nullopt, -1.0}, "add_rms_norm: eps must be finite and not negative, got -1");
}

TEST_CASE("add_rms_norm: meta agrees") {
  const auto agree = [](const auto& real, const auto& meta) {
    CHECK(real.sizes() == meta.sizes());
    CHECK(real.strides() == meta.strides());
    CHECK(real.scalar_type() == meta.scalar_type());
  };
  const Tensor w = at::randn({4}), wm = w.to("meta");
  const Tensor r = at::randn({2, 3, 4});
  for (const Tensor& x : {at::randn({2, 3, 4}).to(at::kHalf), at::randn({2, 4, 3}).transpose(1, 2),
                          at::randn({2, 3, 9}).slice(2, 1, 5)}) {
    const Tensor xm = x.to("meta"), rm = r.to("meta");
    for (const bool flag : {true, false}) {
      const auto a = add_rms_norm({x, r, w, 1e-5, flag}),
                 b = add_rms_norm({xm, rm, wm, 1e-5, flag});
      agree(std::get<0>(a), std::get<0>(b));
      agree(std::get<1>(a), std::get<1>(b));
      for (const auto type : {at::kFloat, at::kHalf}) {
        const auto g = add_rms_norm_bwd({x, r, r, w, 1e-5, type, flag});
        const auto h = add_rms_norm_bwd({xm, rm, rm, wm, 1e-5, type, flag});
        agree(std::get<0>(g), std::get<0>(h));
        agree(std::get<1>(g), std::get<1>(h));
        agree(std::get<2>(g), std::get<2>(h));
      }
    }
  }
}
