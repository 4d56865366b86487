// Against the reference, gradients, dtypes, strides, empty inputs, extremes, determinism.
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "cases.h"

using namespace aspis::test;
using aspis::ops::selective_scan;
using aspis::ops::selective_scan_ref;

TEST_CASE("selective_scan: equals the reference, outputs and gradients") {
  // around the stretches of 32 and the tasks of 128 tokens
  for (int64_t l : {1, 2, 31, 32, 33, 127, 128, 129, 263}) {
    check_against_reference("l=" + std::to_string(l), make_args({2, l, 5, 2, 1}));
  }
  // around the vector widths and the blocks of 64 channels
  for (int64_t d : {1, 3, 8, 16, 17, 63, 64, 65, 130}) {
    check_against_reference("d=" + std::to_string(d), make_args({1, 35, d, 3, 1}));
  }
  for (int64_t n : {1, 2, 7, 16, 33, 256}) {
    check_against_reference("n=" + std::to_string(n), make_args({1, 34, 4, n, 1}));
  }
  for (int64_t g : {1, 2, 4, 8}) {
    check_against_reference("g=" + std::to_string(g), make_args({2, 33, 8 * 9, 3, g}));
  }
  check_against_reference("many rows", make_args({11, 130, 3, 2, 1}));
  check_against_reference("only what is required", make_bare_args({2, 37, 6, 3, 2}));
}

TEST_CASE("selective_scan: equals the reference with each optional input alone") {
  const Sizes sizes{2, 40, 6, 3, 2};
  const SelectiveScanArgs all = make_args(sizes);
  const auto check = [&](const char* what, const auto& change) {
    SelectiveScanArgs args = make_bare_args(sizes);
    change(args);
    check_against_reference(what, args);
  };
  check("D", [&](auto& args) { args.D = all.D; });
  check("z", [&](auto& args) { args.z = all.z; });
  check("delta_bias", [&](auto& args) { args.delta_bias = all.delta_bias; });
  check("softplus", [&](auto& args) { args.delta_softplus = true; });
  check("initial_state", [&](auto& args) { args.initial_state = all.initial_state; });
  check("last_state", [&](auto& args) { args.return_last_state = true; });
  check("reverse", [&](auto& args) { args.reverse = true; });
}

TEST_CASE("selective_scan: gradients by finite differences") {
  const SelectiveScanArgs args = make_args({2, 35, 4, 2, 2});
  std::vector<Tensor> inputs = inputs_of(args);
  for (Tensor& input : inputs) input.requires_grad_(true);
  for (const Scan scan : {Scan{selective_scan}, Scan{selective_scan_ref}}) {
    const auto f = [&](const std::vector<Tensor>& in) {
      const auto [y, last] = scan(with_inputs(args, in));
      return std::vector<Tensor>{y, last};
    };
    check_gradients(scan == Scan{selective_scan} ? "op" : "reference", f, inputs);
  }
}

TEST_CASE("selective_scan: gradients that do not arrive are zeros") {
  const SelectiveScanArgs args = make_args({2, 140, 5, 3, 1});
  const auto gradients = [&](Scan scan, int output) {
    std::vector<Tensor> leaves;
    for (const Tensor& input : inputs_of(args)) {
      leaves.push_back(input.detach().requires_grad_(true));
    }
    const auto [y, last] = scan(with_inputs(args, leaves));
    const Tensor root = output == 0 ? y : last;
    return torch::autograd::grad({(root * root).sum()}, leaves, {}, false, false, true);
  };
  for (int output : {0, 1}) {
    const auto ref = gradients(selective_scan_ref, output);
    const Poison poison;
    const auto ours = gradients(selective_scan, output);
    for (size_t i = 0; i < ours.size(); ++i) {
      const Tensor want = ref[i].defined() ? ref[i] : at::zeros_like(ours[i]);
      check_equal_in_double("output " + std::to_string(output), ours[i], want);
    }
  }
}

TEST_CASE("selective_scan: any strides") {
  const Sizes s{2, 40, 18, 4, 2};
  SelectiveScanArgs args = make_args(s);
  const auto transposed = [](const Tensor& t) {
    return t.transpose(1, 2).contiguous().transpose(1, 2);
  };
  SECTION("(b, d, l) memory") {
    args.x = transposed(args.x);
    args.delta = transposed(args.delta);
    args.z = transposed(*args.z);
    args.B = args.B.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
    args.A = args.A.t().contiguous().t();
    args.initial_state = transposed(*args.initial_state);
    CHECK(std::get<0>(selective_scan(args)).strides() == args.x.strides());
  }
  SECTION("slices of one projection") {
    const Tensor packed = at::randn({s.b, s.l, 3 * s.d + 2 * s.g * s.n}, at::kDouble);
    args.x = packed.narrow(2, 0, s.d);
    args.z = packed.narrow(2, s.d, s.d);
    args.delta = packed.narrow(2, 2 * s.d, s.d);
    args.B = packed.narrow(2, 3 * s.d, s.g * s.n).unflatten(2, {s.g, s.n});
    args.C = packed.narrow(2, 3 * s.d + s.g * s.n, s.g * s.n).unflatten(2, {s.g, s.n});
  }
  SECTION("expanded") {
    args.x = args.x.narrow(0, 0, 1).expand({s.b, s.l, s.d});
    args.B = args.B.narrow(2, 0, 1).expand({s.b, s.l, s.g, s.n});
    args.A = args.A.narrow(1, 0, 1).expand({s.d, s.n});
    args.D = args.D->narrow(0, 0, 1).expand({s.d});
    args.initial_state = args.initial_state->narrow(0, 0, 1).expand({s.b, s.d, s.n});
  }
  check_against_reference("strides", args);
}

TEST_CASE("selective_scan: empty inputs") {
  for (const Sizes& s : {Sizes{0, 5, 4, 2, 1}, Sizes{2, 0, 4, 2, 1}, Sizes{2, 5, 0, 2, 1}}) {
    check_against_reference("empty", make_args(s));
  }
  const SelectiveScanArgs args = make_args({2, 0, 4, 2, 1});
  const auto [y, last] = selective_scan(args);
  CHECK(y.sizes() == at::IntArrayRef({2, 0, 4}));
  check_bitwise("l = 0 returns the initial state", last, *args.initial_state);
  CHECK(last.data_ptr() != args.initial_state->data_ptr());
  CHECK(last.is_contiguous());
}

TEST_CASE("selective_scan: float32, bfloat16, float16 by the two-times rule") {
  const SelectiveScanArgs wide = make_args({1, 70, 21, 16, 1});
  std::vector<std::string> names;
  inputs_of(wide, &names);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const SelectiveScanArgs args = cast(wide, type);
    std::vector<Tensor> weights;
    const Result plain = run(selective_scan_ref, args, weights);
    const Result exact = run(selective_scan_ref, cast(args, at::kDouble), weights);
    const Poison poison;
    const Result ours = run(selective_scan, args, weights);
    CHECK(ours.y.scalar_type() == type);
    CHECK(ours.last.scalar_type() == at::kFloat);
    check_two_times("y", ours.y, plain.y, exact.y);
    check_two_times("last_state", ours.last, plain.last, exact.last);
    const std::vector<Tensor> inputs = inputs_of(args);
    for (size_t i = 0; i < names.size(); ++i) {
      CHECK(ours.grads[i].scalar_type() == inputs[i].scalar_type());
      check_two_times("d" + names[i], ours.grads[i], plain.grads[i], exact.grads[i]);
    }
  }
}

TEST_CASE("selective_scan: parameters may have the half type too") {
  SelectiveScanArgs args = cast(make_args({1, 20, 8, 4, 1}), at::kBFloat16);
  args.D = args.D->to(at::kBFloat16);
  args.delta_bias = args.delta_bias->to(at::kBFloat16);
  std::vector<Tensor> weights;
  const Result ours = run(selective_scan, args, weights);
  const Result ref = run(selective_scan_ref, args, weights);
  CHECK(ours.grads[5].scalar_type() == at::kBFloat16);
  const Result exact = run(selective_scan_ref, cast(args, at::kDouble), weights);
  check_two_times("dD", ours.grads[5], ref.grads[5], exact.grads[5]);
  check_two_times("ddelta_bias", ours.grads[7], ref.grads[7], exact.grads[7]);
}

TEST_CASE("selective_scan: extreme and mixed decays stay finite and exact") {
  SelectiveScanArgs wide = make_args({1, 70, 17, 4, 1});
  wide.delta_bias = std::nullopt;
  wide.A = at::tensor({-64.0, -1.0, -1e-4, 0.0}, at::kDouble).expand({17, 4}).contiguous();
  SECTION("a few steps of 50, then steps of 1e-3") {
    wide.delta_softplus = false;
    wide.delta = at::full({1, 70, 17}, 1e-3, at::kDouble);
    wide.delta.narrow(1, 5, 3).fill_(50);
    wide.delta.narrow(1, 40, 1).fill_(50);
  }
  SECTION("softplus far out on both sides") {
    wide.delta = wide.delta * 40;
  }
  SECTION("steps of zero") {
    wide.delta_softplus = false;
    wide.delta = at::zeros({1, 70, 17}, at::kDouble);
  }
  std::vector<Tensor> weights;
  const SelectiveScanArgs args = cast(wide, at::kFloat);
  const Result plain = run(selective_scan_ref, args, weights);
  const Result exact = run(selective_scan_ref, cast(args, at::kDouble), weights);
  const Result ours = run(selective_scan, args, weights);
  check_two_times("y", ours.y, plain.y, exact.y);
  check_two_times("last_state", ours.last, plain.last, exact.last);
  for (size_t i = 0; i < ours.grads.size(); ++i) {
    CHECK(at::isfinite(ours.grads[i]).all().item<bool>());
    check_two_times("gradient " + std::to_string(i), ours.grads[i], plain.grads[i], exact.grads[i]);
  }
  // fast states alone: their dA is small beside that of the others, and forming h - dt x B would
  // lose it
  check_two_times("dA of the fast states", ours.grads[2].select(1, 0), plain.grads[2].select(1, 0),
                  exact.grads[2].select(1, 0));
}

TEST_CASE("selective_scan: a NaN in any input shows in the output") {
  for (size_t i = 0; i < 9; ++i) {
    const SelectiveScanArgs args = cast(make_args({1, 40, 5, 3, 1}), at::kFloat);
    std::vector<Tensor> inputs = inputs_of(args);
    inputs[i].view(-1)[0] = NAN;
    const auto [y, last] = selective_scan(with_inputs(args, inputs));
    INFO("input " << i);
    CHECK(at::isnan(y).any().item<bool>());
  }
}

TEST_CASE("selective_scan: the same bits for any number of threads") {
  const SelectiveScanArgs args = cast(make_args({3, 300, 200, 5, 2}), at::kFloat);
  const int before = at::get_num_threads();
  std::vector<Tensor> weights;
  at::set_num_threads(1);
  const Result one = run(selective_scan, args, weights);
  for (int threads : {2, 3, 5}) {
    at::set_num_threads(threads);
    const Result many = run(selective_scan, args, weights);
    check_bitwise("y", many.y, one.y);
    check_bitwise("last_state", many.last, one.last);
    for (size_t i = 0; i < one.grads.size(); ++i) {
      check_bitwise("gradient " + std::to_string(i), many.grads[i], one.grads[i]);
    }
  }
  at::set_num_threads(before);
}
