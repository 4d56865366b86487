// Values, gradients, layouts, dtypes, Meta and messages.
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "cases.h"

using namespace aspis::test;

namespace {

using Call = std::tuple<Tensor, Tensor> (*)(const CausalConv1dArgs&);

// Gradients of every differentiable input of `args`, through `call`.
void check_all_gradients(const std::string& what, Call call, const CausalConv1dArgs& args) {
  const auto f = [&](const std::vector<Tensor>& in) {
    CausalConv1dArgs a = args;
    size_t next = 0;
    a.x = in[next++];
    a.weight = in[next++];
    if (a.bias) a.bias = in[next++];
    if (a.initial_state) a.initial_state = in[next++];
    auto [y, last] = call(a);
    return a.return_last_state ? std::vector<Tensor>{y, last} : std::vector<Tensor>{y};
  };
  std::vector<Tensor> inputs{args.x, args.weight};
  if (args.bias) inputs.push_back(*args.bias);
  if (args.initial_state) inputs.push_back(*args.initial_state);
  for (Tensor& input : inputs) input = input.detach().clone().requires_grad_(true);
  check_gradients(what, f, inputs);
}

// y, last_state and all gradients in one list, for random but repeatable output gradients.
std::vector<Tensor> run_with_gradients(Call call, CausalConv1dArgs args, const Tensor& dy,
                                       const Tensor& dlast) {
  std::vector<Tensor> leaves;
  const auto leaf = [&](const Tensor& t) {
    leaves.push_back(t.detach().requires_grad_(true));
    return leaves.back();
  };
  args.x = leaf(args.x);
  args.weight = leaf(args.weight);
  if (args.bias) args.bias = leaf(*args.bias);
  if (args.initial_state) args.initial_state = leaf(*args.initial_state);
  auto [y, last] = call(args);
  auto grads = torch::autograd::grad(
      {y, last}, leaves, {dy.to(y.scalar_type()), dlast.to(last.scalar_type())},
      /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].defined()) grads[i] = at::zeros_like(leaves[i]);
  }
  std::vector<Tensor> out{y.detach(), last.detach()};
  out.insert(out.end(), grads.begin(), grads.end());
  return out;
}

}  // namespace

TEST_CASE("causal_conv1d: outputs and gradients equal the reference at every border length") {
  const Poison poison;
  for (int64_t w : {1, 2, 3, 4, 5, 9, 70}) {
    for (int64_t l : {1, 2, 3, 4, 31, 32, 33, 97, 131, 300}) {
      for (const char* activation : {"none", "silu"}) {
        const int64_t d = l == 33 ? 37 : 5;
        CausalConv1dArgs args = random_args(2, l, d, w, activation);
        const Tensor dy = at::randn_like(args.x), dlast = at::randn_like(*args.initial_state);
        const auto ours = run_with_gradients(causal_conv1d, args, dy, dlast);
        const auto ref = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
        for (size_t i = 0; i < ref.size(); ++i) {
          check_equal_in_double(
              "w " + std::to_string(w) + " l " + std::to_string(l) + " tensor " + std::to_string(i),
              ours[i], ref[i]);
        }
        args.bias.reset();
        args.initial_state.reset();
        check_both("without bias and state", causal_conv1d(args), causal_conv1d_ref(args));
      }
    }
  }
}

TEST_CASE("causal_conv1d: channel counts around vectors and blocks of channels") {
  const Poison poison;
  for (int64_t d : {1, 3, 4, 7, 8, 15, 16, 17, 511, 512, 513, 530}) {
    const CausalConv1dArgs args = random_args(2, 40, d, 4);
    const Tensor dy = at::randn_like(args.x), dlast = at::randn_like(*args.initial_state);
    const auto ours = run_with_gradients(causal_conv1d, args, dy, dlast);
    const auto ref = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
    for (size_t i = 0; i < ref.size(); ++i) {
      check_equal_in_double("d " + std::to_string(d), ours[i], ref[i]);
    }
  }
}

TEST_CASE("causal_conv1d: gradients by central differences") {
  const Poison poison;
  for (Call call : {Call(causal_conv1d), Call(causal_conv1d_ref)}) {
    for (const char* activation : {"none", "silu"}) {
      for (int64_t l : {1, 2, 9, 40}) {
        check_all_gradients("whole", call, random_args(2, l, 3, 4, activation));
      }
    }
    CausalConv1dArgs args = random_args(1, 12, 3, 4);
    args.seq_idx = int32({4, 4, -1, 4, 7, 2, 2, 2, -1, -3, 2, -1}).unsqueeze(0);
    check_all_gradients("seq_idx", call, args);
    args.reverse = true;
    check_all_gradients("seq_idx reversed", call, args);
    args.seq_idx.reset();
    args.cu_seqlens = int32({0, 0, 2, 7, 8, 12, 12});
    args.initial_state = at::randn({6, 3, 3}, at::kDouble);
    check_all_gradients("cu_seqlens reversed", call, args);
    args.reverse = false;
    check_all_gradients("cu_seqlens", call, args);
    args.return_last_state = false;
    args.initial_state.reset();
    args.bias.reset();
    check_all_gradients("x and weight only", call, args);
  }
}

TEST_CASE("causal_conv1d: one absent output gradient") {
  const CausalConv1dArgs args = random_args(2, 7, 3, 4);
  for (int kept : {0, 1}) {
    const auto grads = [&](Call call) {
      CausalConv1dArgs a = args;
      a.x = args.x.clone().requires_grad_(true);
      a.initial_state = args.initial_state->clone().requires_grad_(true);
      auto [y, last] = call(a);
      return torch::autograd::grad({kept == 0 ? y.sum() : last.pow(2).sum()},
                                   {a.x, *a.initial_state});
    };
    const auto ours = grads(causal_conv1d), ref = grads(causal_conv1d_ref);
    for (size_t i = 0; i < 2; ++i) check_equal_in_double("kept one", ours[i], ref[i]);
  }
}

TEST_CASE("causal_conv1d: any strides in, x's stride order out") {
  const Poison poison;
  const CausalConv1dArgs plain = random_args(2, 21, 6, 4);
  const auto ref = causal_conv1d_ref(plain);
  const auto with_x = [&](const Tensor& x) {
    CausalConv1dArgs args = plain;
    args.x = x;
    return args;
  };
  const Tensor transposed = plain.x.transpose(1, 2).contiguous().transpose(1, 2);
  const auto from_transposed = causal_conv1d(with_x(transposed));
  check_both("(b, d, l) view", from_transposed, ref);
  CHECK(std::get<0>(from_transposed).strides() == transposed.strides());
  CHECK(std::get<0>(causal_conv1d_ref(with_x(transposed))).strides() == transposed.strides());
  CHECK(std::get<1>(from_transposed).is_contiguous());

  Tensor packed = at::randn({2, 21, 20}, at::kDouble);
  packed.narrow(2, 5, 6).copy_(plain.x);
  check_both("slice of a projection", causal_conv1d(with_x(packed.narrow(2, 5, 6))), ref);

  const Tensor time_first = plain.x.transpose(0, 1).contiguous().transpose(0, 1);
  const auto from_time_first = causal_conv1d(with_x(time_first));
  check_both("(l, b, d) view", from_time_first, ref);
  CHECK(std::get<0>(from_time_first).strides() == time_first.strides());

  CausalConv1dArgs expanded = with_x(plain.x.narrow(0, 0, 1).expand({2, 21, 6}));
  expanded.initial_state = plain.initial_state->narrow(0, 0, 1).expand({2, 6, 3});
  expanded.weight = plain.weight.t().contiguous().t();
  check_both("expanded", causal_conv1d(expanded), causal_conv1d_ref(expanded));
  const Tensor dy = at::randn({1, 1, 1}, at::kDouble).expand({2, 21, 6});
  const Tensor dlast = at::randn({2, 3, 6}, at::kDouble).transpose(1, 2);
  for (const Tensor& x : {plain.x, transposed, packed.narrow(2, 5, 6), expanded.x}) {
    CausalConv1dArgs args = expanded;
    args.x = x;
    const auto ours = run_with_gradients(causal_conv1d, args, dy, dlast);
    const auto wanted = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
    for (size_t i = 0; i < wanted.size(); ++i) check_equal_in_double("strides", ours[i], wanted[i]);
  }
}

TEST_CASE("causal_conv1d: float32 and half types by the two-times rule") {
  const Poison poison;
  for (at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (bool float_parameters : {false, true}) {
      const auto parameter_type = float_parameters ? at::kFloat : type;
      CausalConv1dArgs args = random_args(2, 150, 40, 4);
      args.x = args.x.to(type);
      args.weight = args.weight.to(parameter_type);
      args.bias = args.bias->to(parameter_type);
      args.initial_state = args.initial_state->to(type);
      CausalConv1dArgs exact = args;
      exact.x = args.x.to(at::kDouble);
      exact.weight = args.weight.to(at::kDouble);
      exact.bias = args.bias->to(at::kDouble);
      exact.initial_state = args.initial_state->to(at::kDouble);
      const Tensor dy = at::randn_like(args.x), dlast = at::randn_like(*args.initial_state);
      const auto ours = run_with_gradients(causal_conv1d, args, dy, dlast);
      const auto plain = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
      const auto ref = run_with_gradients(causal_conv1d_ref, exact, dy, dlast);
      for (size_t i = 0; i < ref.size(); ++i) {
        CHECK(ours[i].scalar_type() == plain[i].scalar_type());
        check_two_times(std::string(c10::toString(type)) + " tensor " + std::to_string(i), ours[i],
                        plain[i], ref[i]);
      }
      CHECK(ours[0].scalar_type() == type);
      CHECK(ours[1].scalar_type() == type);
      CHECK(ours[3].scalar_type() == parameter_type);
    }
  }
}

TEST_CASE("causal_conv1d: large inputs stay finite and exact") {
  CausalConv1dArgs args = random_args(1, 20, 16, 4);
  args.x = args.x * 1e4;
  const Tensor dy = at::randn_like(args.x), dlast = at::randn_like(*args.initial_state);
  const auto ref = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
  const auto ours = run_with_gradients(causal_conv1d, args, dy, dlast);
  for (size_t i = 0; i < ref.size(); ++i) {
    CHECK(ours[i].isfinite().all().item<bool>());
    check_equal_in_double("large", ours[i], ref[i]);
  }
  for (Tensor* t : {&args.x, &args.weight, &*args.bias, &*args.initial_state}) {
    *t = t->to(at::kFloat);
  }
  const auto single = run_with_gradients(causal_conv1d, args, dy, dlast);
  const auto plain = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
  for (size_t i = 0; i < ref.size(); ++i) check_two_times("large", single[i], plain[i], ref[i]);
}

TEST_CASE("causal_conv1d: empty sizes and no aliasing") {
  const Poison poison;
  for (const auto& [b, l, d] : {std::tuple{0, 5, 3}, {2, 0, 3}, {2, 5, 0}, {0, 0, 0}}) {
    const CausalConv1dArgs args = random_args(b, l, d, 4);
    const Tensor dy = at::randn_like(args.x), dlast = at::randn_like(*args.initial_state);
    const auto ours = run_with_gradients(causal_conv1d, args, dy, dlast);
    const auto ref = run_with_gradients(causal_conv1d_ref, args, dy, dlast);
    for (size_t i = 0; i < ref.size(); ++i) check_equal_in_double("empty", ours[i], ref[i]);
  }
  CausalConv1dArgs args = random_args(2, 0, 3, 4);
  const Tensor last = std::get<1>(causal_conv1d(args));
  check_bitwise("l = 0 returns the initial state", last, *args.initial_state);
  CHECK(last.data_ptr() != args.initial_state->data_ptr());
  args.initial_state.reset();
  check_bitwise("zeros without one", std::get<1>(causal_conv1d(args)),
                at::zeros({2, 3, 3}, at::kDouble));
  args.cu_seqlens = int32({0});
  args.x = at::randn({1, 0, 3}, at::kDouble);
  CHECK(std::get<1>(causal_conv1d(args)).sizes() == at::IntArrayRef({0, 3, 3}));
  CHECK(std::get<1>(causal_conv1d_ref(args)).sizes() == at::IntArrayRef({0, 3, 3}));
}

TEST_CASE("causal_conv1d: Meta agrees on sizes, dtypes and strides") {
  const auto same = [](const Tensor& cpu, const Tensor& meta) {
    CHECK(cpu.sizes() == meta.sizes());
    CHECK(cpu.strides() == meta.strides());
    CHECK(cpu.scalar_type() == meta.scalar_type());
  };
  const auto moved = [](const std::optional<Tensor>& t) {
    return t ? std::optional<Tensor>(t->to("meta")) : std::nullopt;
  };
  for (int flags = 0; flags < 32; ++flags) {
    CausalConv1dArgs args = random_args(1, 6, 5, 4);
    args.return_last_state = flags & 1;
    if (flags & 2) args.initial_state.reset();
    if (flags & 4) args.cu_seqlens = int32({0, 2, 6});
    if (args.initial_state && args.cu_seqlens) {
      args.initial_state = at::randn({2, 5, 3}, at::kDouble);
    }
    if (flags & 8) args.bias.reset();
    if (flags & 16) args.x = args.x.transpose(1, 2).contiguous().transpose(1, 2);
    CausalConv1dArgs meta = args;
    meta.x = args.x.to("meta");
    meta.weight = args.weight.to("meta");
    meta.bias = moved(args.bias);
    meta.initial_state = moved(args.initial_state);
    meta.cu_seqlens = moved(args.cu_seqlens);
    const auto [y, last] = causal_conv1d(args);
    const auto [meta_y, meta_last] = causal_conv1d(meta);
    same(y, meta_y);
    same(last, meta_last);
    if (!args.return_last_state) CHECK(last.numel() == 0);
    const auto grads = [](CausalConv1dArgs a) {
      a.x.requires_grad_(true);
      a.weight.requires_grad_(true);
      return torch::autograd::grad({std::get<0>(causal_conv1d(a))}, {a.x, a.weight},
                                   {at::zeros_like(a.x)});
    };
    const auto cpu_grads = grads(args), meta_grads = grads(meta);
    for (size_t i = 0; i < 2; ++i) same(cpu_grads[i], meta_grads[i]);
  }
}

TEST_CASE("causal_conv1d: second derivatives are refused, the reference has them") {
  CausalConv1dArgs args = random_args(1, 5, 2, 3);
  args.x.requires_grad_(true);
  args.weight.requires_grad_(true);
  const auto second = [&](Call call) {
    const Tensor y = std::get<0>(call(args)).pow(2).sum();
    const auto grads = torch::autograd::grad({y}, {args.x}, {}, true, /*create_graph=*/true);
    return torch::autograd::grad({grads[0].sum()}, {args.weight}, {}, true, false, true)[0];
  };
  CHECK(message_of([&] { second(causal_conv1d); }).find("second derivatives are not supported") !=
        std::string::npos);
  CHECK(second(causal_conv1d_ref).defined());
}

TEST_CASE("causal_conv1d: messages") {
  const CausalConv1dArgs good = random_args(2, 6, 3, 4);
  const auto refused = [&](const std::function<void(CausalConv1dArgs&)>& change,
                           const std::string& wanted) {
    CausalConv1dArgs args = good;
    change(args);
    for (Call call : {Call(causal_conv1d), Call(causal_conv1d_ref)}) {
      const std::string text = message_of([&] { call(args); });
      INFO(text);
      CHECK(text.find(wanted) != std::string::npos);
    }
  };
  refused([](auto& a) { a.x = a.x.select(0, 0); },
          "causal_conv1d: x must be (b, l, d), got (6, 3)");
  refused([](auto& a) { a.x = a.x.to(at::kInt); },
          "causal_conv1d: x must be float32, float64, bfloat16 or float16, got Int");
  refused(
      [](auto& a) {
        a.weight = at::randn({4, 4}, at::kDouble);
      },
      "causal_conv1d: weight must be (d=3, w=4), got (4, 4)");
  refused(
      [](auto& a) {
        a.weight = at::randn({3, 0}, at::kDouble);
      },
      "causal_conv1d: weight (d, w) needs w >= 1, got (3, 0)");
  refused([](auto& a) { a.weight = a.weight.to(at::kFloat); },
          "causal_conv1d: weight must be Double (x's dtype), got Float");
  refused([](auto& a) { a.bias = at::randn({2}, at::kDouble); },
          "causal_conv1d: bias must be (d=3), got (2)");
  refused([](auto& a) { a.activation = "swish"; },
          "causal_conv1d: activation must be \"none\" or \"silu\", got \"swish\"");
  refused(
      [](auto& a) {
        a.initial_state = at::randn({2, 3, 4}, at::kDouble);
      },
      "causal_conv1d: initial_state must be (b=2, d=3, w-1=3), got (2, 3, 4)");
  refused([](auto& a) { a.initial_state = a.initial_state->to(at::kFloat); },
          "causal_conv1d: initial_state must be Double (x's dtype), got Float");
  refused(
      [](auto& a) {
        a.seq_idx = at::zeros({2, 6}, at::kLong);
      },
      "causal_conv1d: seq_idx must be Int");
  refused(
      [](auto& a) {
        a.seq_idx = at::zeros({2, 5}, at::kInt);
      },
      "causal_conv1d: seq_idx must be (b=2, l=6), got (2, 5)");
  refused([](auto& a) { a.cu_seqlens = int32({0, 6}); }, "causal_conv1d: cu_seqlens needs b = 1");
  const auto one_row = [](CausalConv1dArgs& a, const std::vector<int64_t>& borders) {
    a.x = at::randn({1, 6, 3}, at::kDouble);
    a.initial_state.reset();
    a.cu_seqlens = int32(borders);
  };
  refused([&](auto& a) { one_row(a, {1, 6}); }, "cu_seqlens must start at 0, got 1");
  refused([&](auto& a) { one_row(a, {0, 5}); }, "cu_seqlens must end at l=6, got 5");
  refused(
      [&](auto& a) {
        one_row(a, {0, 4, 3, 6});
      },
      "cu_seqlens must never decrease, got 4 then 3");
  refused(
      [&](auto& a) {
        one_row(a, {0, 6});
        a.seq_idx = at::zeros({1, 6}, at::kInt);
      },
      "causal_conv1d: give seq_idx or cu_seqlens, not both");
  refused(
      [&](auto& a) {
        one_row(a, {0, 2, 6});
        a.initial_state = at::randn({1, 3, 3}, at::kDouble);
      },
      "causal_conv1d: initial_state must be (docs=2, d=3, w-1=3), got (1, 3, 3)");
}
