// Messages, Meta, refusals.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/zeros.h>

#include "cases.h"

using namespace aspis::test;
using aspis::ops::call_selective_scan_bwd;
using aspis::ops::call_selective_scan_fwd;
using aspis::ops::selective_scan;
using aspis::ops::selective_scan_ref;

namespace {

std::optional<Tensor> to_meta(const std::optional<Tensor>& t) {
  if (!t || !t->defined()) return std::nullopt;
  return at::empty_strided(t->sizes(), t->strides(), t->options().device(at::kMeta));
}

SelectiveScanArgs to_meta(SelectiveScanArgs args) {
  for (Tensor* t : {&args.x, &args.delta, &args.A, &args.B, &args.C})
    *t = *to_meta(std::optional(*t));
  for (auto* t :
       {&args.D, &args.z, &args.delta_bias, &args.initial_state, &args.seq_idx, &args.cu_seqlens}) {
    *t = to_meta(*t);
  }
  return args;
}

void check_same_metadata(const char* what, const Tensor& meta, const Tensor& real) {
  INFO(what);
  CHECK(meta.is_meta());
  CHECK(meta.sizes() == real.sizes());
  CHECK(meta.strides() == real.strides());
  CHECK(meta.scalar_type() == real.scalar_type());
}

template <typename Tuple>
std::vector<Tensor> list(const Tuple& tuple) {
  return std::apply([](const auto&... t) { return std::vector<Tensor>{t...}; }, tuple);
}

}  // namespace

TEST_CASE("selective_scan: meta agrees with the kernels for every combination of flags") {
  for (int flags = 0; flags < 64; ++flags) {
    const auto type = flags & 32 ? at::kBFloat16 : at::kFloat;
    SelectiveScanArgs args = cast(make_args({flags & 1 ? 1 : 2, 70, 6, 4, 2}), type);
    args.return_last_state = flags & 2;
    if (flags & 4) {
      for (auto* t : {&args.D, &args.z, &args.delta_bias}) t->reset();
    }
    if (flags & 8) args.initial_state.reset();
    if (flags & 16) args.x = args.x.transpose(1, 2).contiguous().transpose(1, 2);
    if (flags & 1) {
      args.cu_seqlens = ints({0, 20, 20, 70});
      if (args.initial_state) args.initial_state = at::randn({3, 6, 4});
    }
    for (bool save : {false, true}) {
      const auto real = call_selective_scan_fwd(args, save);
      const auto meta = call_selective_scan_fwd(to_meta(args), save);
      for (size_t i = 0; i < 3; ++i) check_same_metadata("forward", list(meta)[i], list(real)[i]);
      CHECK((std::get<1>(real).numel() > 0) == args.return_last_state);
      CHECK((std::get<2>(real).numel() > 0) == save);
      if (!save) continue;
      const std::optional<Tensor> dy = at::randn_like(std::get<0>(real));
      const auto grads = call_selective_scan_bwd(dy, std::nullopt, args, std::get<2>(real));
      const auto meta_grads =
          call_selective_scan_bwd(to_meta(dy), std::nullopt, to_meta(args), std::get<2>(meta));
      for (size_t i = 0; i < 9; ++i) {
        check_same_metadata("gradient", list(meta_grads)[i], list(grads)[i]);
      }
    }
  }
}

TEST_CASE("selective_scan: the state is contiguous, last_state empty unless asked for") {
  SelectiveScanArgs args = cast(make_args({2, 5, 6, 4, 1}), at::kHalf);
  const Tensor last = std::get<1>(selective_scan(args));
  CHECK(last.is_contiguous());
  CHECK(last.scalar_type() == at::kFloat);
  args.return_last_state = false;
  CHECK(std::get<1>(selective_scan(args)).numel() == 0);
}

TEST_CASE("selective_scan: second derivatives are refused, the reference has them") {
  const SelectiveScanArgs args = make_args({1, 5, 3, 2, 1});
  const auto second = [&](Scan scan) {
    std::vector<Tensor> leaves;
    for (const Tensor& input : inputs_of(args))
      leaves.push_back(input.detach().requires_grad_(true));
    const Tensor loss = std::get<0>(scan(with_inputs(args, leaves))).pow(2).sum();
    const auto first = torch::autograd::grad({loss}, {leaves[1]}, {}, true, /*create_graph=*/true);
    return torch::autograd::grad({first[0].sum()}, {leaves[2]})[0];
  };
  CHECK(message_of([&] {
          second(selective_scan);
        }).find("aspis::selective_scan: second derivatives are not supported") !=
        std::string::npos);
  CHECK(second(selective_scan_ref).isfinite().all().item<bool>());
}

TEST_CASE("selective_scan: messages") {
  const auto fails = [](const char* text, const auto& change) {
    for (const bool meta : {false, true}) {
      SelectiveScanArgs args = make_args({2, 8, 6, 4, 2});
      change(args);
      if (meta) args = to_meta(args);
      const std::string message = message_of([&] { selective_scan(args); });
      INFO(message);
      CHECK(message.find(text) != std::string::npos);
    }
  };
  fails("selective_scan: x must be (b, l, d), got (2, 8)", [](auto& a) { a.x = a.x.select(2, 0); });
  fails("selective_scan: x must be float32, float64, bfloat16 or float16, got Long",
        [](auto& a) { a.x = a.x.to(at::kLong); });
  fails("selective_scan: delta must be (b=2, l=8, d=6), got (2, 7, 6)",
        [](auto& a) { a.delta = a.delta.narrow(1, 0, 7); });
  fails("selective_scan: delta must be Double (x's dtype), got Float",
        [](auto& a) { a.delta = a.delta.to(at::kFloat); });
  fails("selective_scan: A must be (d=6, n=4), got (5, 4)",
        [](auto& a) { a.A = a.A.narrow(0, 0, 5); });
  fails("selective_scan: A must be real, got ComplexDouble. Complex states are not supported",
        [](auto& a) { a.A = a.A.to(at::kComplexDouble); });
  fails("selective_scan: A must have n >= 1 states, got (6, 0)",
        [](auto& a) { a.A = a.A.narrow(1, 0, 0); });
  fails("selective_scan: A must be Double", [](auto& a) { a.A = a.A.to(at::kFloat); });
  fails("selective_scan: B must be (b, l, g, n), got (2, 8, 4)",
        [](auto& a) { a.B = a.B.select(2, 0); });
  fails("selective_scan: the groups of B must divide the channels, got g=4 for d=6", [](auto& a) {
    a.B = a.C = at::randn({2, 8, 4, 4}, at::kDouble);
  });
  fails("selective_scan: C must be (b=2, l=8, g=2, n=4), got (2, 8, 1, 4)",
        [](auto& a) { a.C = a.C.narrow(2, 0, 1); });
  fails("selective_scan: D must be (d=6), got (1)", [](auto& a) { a.D = a.D->narrow(0, 0, 1); });
  fails("selective_scan: D must be Double (x's dtype), got Float",
        [](auto& a) { a.D = a.D->to(at::kFloat); });
  fails("selective_scan: z must be (b=2, l=8, d=6), got (1, 8, 6)",
        [](auto& a) { a.z = a.z->narrow(0, 0, 1); });
  fails("selective_scan: delta_bias must be (d=6), got (5)",
        [](auto& a) { a.delta_bias = a.delta_bias->narrow(0, 0, 5); });
  fails("selective_scan: initial_state must be (b=2, d=6, n=4), got (1, 6, 4)",
        [](auto& a) { a.initial_state = a.initial_state->narrow(0, 0, 1); });
  fails("selective_scan: initial_state must be Double",
        [](auto& a) { a.initial_state = a.initial_state->to(at::kFloat); });
  fails("selective_scan: seq_idx must be (b=2, l=8), got (2, 7)", [](auto& a) {
    a.seq_idx = at::zeros({2, 7}, at::kInt);
  });
  fails("selective_scan: seq_idx must be Int", [](auto& a) {
    a.seq_idx = at::zeros({2, 8}, at::kLong);
  });
  fails("selective_scan: give seq_idx or cu_seqlens, not both", [](auto& a) {
    a.seq_idx = at::zeros({2, 8}, at::kInt);
    a.cu_seqlens = ints({0, 8});
  });
  fails("selective_scan: cu_seqlens needs b = 1", [](auto& a) { a.cu_seqlens = ints({0, 8}); });
}

TEST_CASE("selective_scan: wrong contents of cu_seqlens are refused") {
  const auto message = [](const std::vector<int32_t>& borders) {
    SelectiveScanArgs args = make_args({1, 8, 6, 4, 1});
    args.initial_state = std::nullopt;
    args.cu_seqlens = ints(borders);
    return message_of([&] { selective_scan(args); });
  };
  CHECK(message({1, 8}).find("cu_seqlens must start at 0, got 1") != std::string::npos);
  CHECK(message({0, 5, 3, 8}).find("cu_seqlens must never decrease, got 5 then 3") !=
        std::string::npos);
  CHECK(message({0, 9}).find("cu_seqlens must end at l=8, got 9") != std::string::npos);
}
