// What the op refuses, and that Meta agrees with the kernels.
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include "cases.h"
#include "ops/op_table.h"
#include "ops/ssd/calls.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;

TEST_CASE("ssd: messages") {
  SsdCase c;
  c.b = 1;
  c.l = 3;
  const SsdArgs good = make_ssd(c);
  const auto says = [&](const std::string& text, const std::function<void(SsdArgs&)>& change) {
    SsdArgs args = good;
    change(args);
    const std::string message = message_of([&] { ssd(args); });
    INFO(message);
    CHECK(message.find(text) != std::string::npos);
  };
  says("ssd: x must be (b, l, h, p), got (3, 4)", [](SsdArgs& a) { a.x = at::randn({3, 4}); });
  says("ssd: x must be float32, float64, bfloat16 or float16, got Int",
       [](SsdArgs& a) { a.x = a.x.to(at::kInt); });
  says("ssd: dt must be (b=1, l=3, h=4), got (1, 2, 4)",
       [](SsdArgs& a) { a.dt = a.dt.narrow(1, 0, 2); });
  says("ssd: dt must be Double (x's dtype), got Float",
       [](SsdArgs& a) { a.dt = a.dt.to(at::kFloat); });
  says("ssd: A must be (h=4), got (4, 6)", [](SsdArgs& a) { a.A = at::randn({4, 6}); });
  says("ssd: A must be real, got ComplexDouble",
       [](SsdArgs& a) { a.A = a.A.to(at::kComplexDouble); });
  says("ssd: C must be (b=1, l=3, g=2, n=6), got (1, 3, 1, 6)",
       [](SsdArgs& a) { a.C = a.C.narrow(2, 0, 1); });
  says("ssd: the groups of B and C must divide the heads, got g = 3 and h = 4", [](SsdArgs& a) {
    a.B = a.C = at::randn({1, 3, 3, 6}, at::kDouble);
  });
  says("ssd: B must be Double (x's dtype), got Float",
       [](SsdArgs& a) { a.B = a.B.to(at::kFloat); });
  says("ssd: D must be (h) or (h, p), got (1, 1, 1)", [](SsdArgs& a) {
    a.D = at::randn({1, 1, 1});
  });
  says("ssd: D must be (h=4, p=5), got (4, 6)", [](SsdArgs& a) { a.D = at::randn({4, 6}); });
  says("ssd: z must be (b=1, l=3, h=4, p=5), got (1, 3, 4, 4)",
       [](SsdArgs& a) { a.z = a.z->narrow(3, 0, 4); });
  says("ssd: dt_bias must be (h=4), got (3)", [](SsdArgs& a) { a.dt_bias = at::randn({3}); });
  says("ssd: dt_min must not exceed dt_max, got 2 and 1", [](SsdArgs& a) {
    a.dt_min = 2;
    a.dt_max = 1;
  });
  says("ssd: initial_state must be (b=1, h=4, p=5, n=6), got (2, 4, 5, 6)", [](SsdArgs& a) {
    a.initial_state = at::randn({2, 4, 5, 6}, at::kDouble);
  });
  says("ssd: initial_state must be Double (states are float32, float64 beside float64), got Float",
       [](SsdArgs& a) { a.initial_state = a.initial_state->to(at::kFloat); });
  says("ssd: initial_state must be (docs=2, h=4, p=5, n=6), got (1, 4, 5, 6)", [](SsdArgs& a) {
    a.cu_seqlens = int32({0, 1, 3});
  });
  says("ssd: give seq_idx or cu_seqlens, not both", [](SsdArgs& a) {
    a.seq_idx = int32({0, 0, 0}).unsqueeze(0);
    a.cu_seqlens = int32({0, 3});
  });
  says("ssd: cu_seqlens must start at 0, got 1", [](SsdArgs& a) { a.cu_seqlens = int32({1, 3}); });
  says("ssd: cu_seqlens must never decrease", [](SsdArgs& a) {
    a.initial_state.reset();
    a.cu_seqlens = int32({0, 2, 1, 3});
  });
  says("ssd: cu_seqlens must end at l=3, got 2", [](SsdArgs& a) { a.cu_seqlens = int32({0, 2}); });
}

TEST_CASE("ssd: second derivatives are refused, the reference has them") {
  SsdCase c;
  c.b = 1;
  c.l = 3;
  SsdArgs args = make_ssd(c);
  args.x.set_requires_grad(true);
  args.B.set_requires_grad(true);
  for (const bool reference : {false, true}) {
    const at::Tensor y = std::get<0>(reference ? ssd_ref(args) : ssd(args)).pow(2).sum();
    const auto grads = torch::autograd::grad({y}, {args.x}, {}, true, /*create_graph=*/true);
    const auto again = [&] { return torch::autograd::grad({grads[0].pow(2).sum()}, {args.B}); };
    if (reference) {
      CHECK(again()[0].norm().item<double>() > 0);
    } else {
      CHECK(message_of([&] { again(); }).find("second derivatives are not supported") !=
            std::string::npos);
    }
  }
}

TEST_CASE("ssd: Meta agrees with the kernels") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (int bits = 0; bits < 64; ++bits) {
      SsdCase c;
      c.b = 1;
      c.l = 130;
      c.D = c.z = c.dt_bias = bits & 1;
      c.initial_state = bits & 2;
      SsdArgs args = convert(make_ssd(c), type);
      args.return_last_state = bits & 4;
      const bool save = bits & 8;
      if (bits & 16) args.x = args.x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
      if (bits & 32) {
        args.cu_seqlens = int32({0, 40, 130});
        if (args.initial_state)
          args.initial_state = at::randn({2, c.h, c.p, c.n}, args.A.options());
      }
      SsdArgs meta = args;
      for (auto& [name, tensor] : ssd_inputs(meta)) *tensor = tensor->to(at::kMeta);
      if (meta.cu_seqlens) meta.cu_seqlens = meta.cu_seqlens->to(at::kMeta);
      const auto same = [&](const at::Tensor& ours, const at::Tensor& other) {
        CHECK(ours.sizes() == other.sizes());
        CHECK(ours.strides() == other.strides());
        CHECK(ours.scalar_type() == other.scalar_type());
      };
      const auto [y, last, states] = ssd_fwd(args, save);
      const auto [my, mlast, mstates] = ssd_fwd(meta, save);
      same(y, my);
      same(last, mlast);
      same(states, mstates);
      if (!save) continue;
      const SsdGrads g = ssd_bwd(y, std::nullopt, args, states);
      const SsdGrads m = ssd_bwd(my, std::nullopt, meta, mstates);
      same(g.dx, m.dx);
      same(g.ddt, m.ddt);
      same(g.dA, m.dA);
      same(g.dB, m.dB);
      same(g.dC, m.dC);
      same(g.dD, m.dD);
      same(g.dz, m.dz);
      same(g.ddt_bias, m.ddt_bias);
      same(g.dinitial_state, m.dinitial_state);
    }
  }
}

TEST_CASE("ssd: kernels are registered") {
  CHECK(has_kernels("ssd", c10::DispatchKey::CPU));
  CHECK(has_kernels("ssd_step", c10::DispatchKey::CPU));
}
