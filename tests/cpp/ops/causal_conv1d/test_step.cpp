// Decode step: equal to the op and to its reference, slots, padding, state types, refusals.
#include "cases.h"

using namespace aspis::test;
using aspis::ops::causal_conv1d_step;
using aspis::ops::causal_conv1d_step_ref;
using aspis::ops::CausalConv1dStepArgs;

namespace {

CausalConv1dStepArgs step_args(const CausalConv1dArgs& args, const Tensor& state) {
  CausalConv1dStepArgs step;
  step.x = args.x;
  step.state = state;
  step.weight = args.weight;
  step.bias = args.bias;
  step.activation = args.activation;
  return step;
}

}  // namespace

TEST_CASE("causal_conv1d_step: steps of any size = the op") {
  const Poison poison;
  for (int64_t w : {1, 2, 4, 5}) {
    for (const char* activation : {"none", "silu"}) {
      const CausalConv1dArgs args = random_args(3, 12, 21, w, activation);
      const auto want = causal_conv1d(args);
      for (const std::vector<int64_t>& sizes : {std::vector<int64_t>(12, 1), {2, 3, 1, 6}, {12}}) {
        CausalConv1dStepArgs step = step_args(args, args.initial_state->clone());
        std::vector<Tensor> ys;
        int64_t begin = 0;
        for (int64_t t : sizes) {
          step.x = args.x.narrow(1, begin, t);
          ys.push_back(causal_conv1d_step(step));
          begin += t;
        }
        check_both("step", {at::cat(ys, 1), step.state}, want);
      }
    }
  }
}

TEST_CASE("causal_conv1d_step: t tokens in one call = t calls, to the bit") {
  for (at::ScalarType type : {at::kFloat, at::kDouble}) {
    CausalConv1dArgs args = random_args(2, 7, 37, 4);
    for (Tensor* t : {&args.x, &args.weight, &*args.bias, &*args.initial_state}) *t = t->to(type);
    CausalConv1dStepArgs once = step_args(args, args.initial_state->clone());
    CausalConv1dStepArgs many = step_args(args, args.initial_state->clone());
    const Tensor y = causal_conv1d_step(once);
    for (int64_t i = 0; i < 7; ++i) {
      many.x = args.x.narrow(1, i, 1);
      check_bitwise("y", causal_conv1d_step(many), y.narrow(1, i, 1));
    }
    check_bitwise("state", many.state, once.state);
  }
}

TEST_CASE("causal_conv1d_step: slots, padding rows, unwritten rows") {
  const Poison poison;
  const CausalConv1dArgs args = random_args(4, 2, 6, 4);
  const Tensor pool = at::randn({7, 6, 3}, at::kDouble);
  const std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> cases = {
      {{6, 0, 3, 2}, {}},
      {{6, -1, 3, -5}, {}},
      {{6, 0, 3, 2}, {0, 6, -1, 5}},  // rows hand slots to each other, one is not written
      {{1, 1, 1, -1}, {2, 3, 1, 4}},  // one prefix, three continuations; padding writes nothing
      {{-1, -1, -1, -1}, {}}};
  for (const auto& [src, dst] : cases) {
    CausalConv1dStepArgs ours = step_args(args, pool.clone());
    ours.src_slots = int32(src);
    if (!dst.empty()) ours.dst_slots = int32(dst);
    CausalConv1dStepArgs ref = ours;
    ref.state = pool.clone();
    check_equal_in_double("y", causal_conv1d_step(ours), causal_conv1d_step_ref(ref));
    check_bitwise("state", ours.state, ref.state);
    // Apart: row i alone from its slot.
    Tensor want = pool.clone();
    for (int64_t i = 0; i < 4; ++i) {
      if (src[i] < 0) continue;
      CausalConv1dStepArgs row = step_args(args, pool.narrow(0, src[i], 1).clone());
      row.x = args.x.narrow(0, i, 1);
      causal_conv1d_step(row);
      const int64_t target = dst.empty() ? src[i] : dst[i];
      if (target >= 0) want.select(0, target).copy_(row.state.select(0, 0));
    }
    check_bitwise("state, apart", ours.state, want);
  }
}

TEST_CASE("causal_conv1d_step: state dtypes, x dtypes and strides") {
  const Poison poison;
  for (at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (at::ScalarType state_type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
      CausalConv1dArgs args = random_args(2, 3, 18, 4);
      for (Tensor* t : {&args.x, &args.weight, &*args.bias}) *t = t->to(type);
      const Tensor start = args.initial_state->to(state_type);
      const auto run = [&](auto call, at::ScalarType x_type, at::ScalarType stored) {
        CausalConv1dStepArgs step = step_args(args, start.to(stored).clone());
        step.x = args.x.to(x_type).transpose(1, 2).contiguous().transpose(1, 2);
        step.weight = args.weight.to(x_type);
        step.bias = args.bias->to(x_type);
        const Tensor y = call(step);
        CHECK(y.scalar_type() == x_type);
        CHECK(y.strides() == step.x.strides());
        return std::pair(y, step.state);
      };
      const auto ours = run(causal_conv1d_step, type, state_type);
      const auto plain = run(causal_conv1d_step_ref, type, state_type);
      const auto ref = run(causal_conv1d_step_ref, at::kDouble, at::kDouble);
      check_two_times("y", ours.first, plain.first, ref.first);
      check_two_times("state", ours.second, plain.second, ref.second);
    }
  }
  // A state that is a slice of a larger cache is written in place.
  const CausalConv1dArgs args = random_args(2, 1, 5, 4);
  const Tensor cache = at::randn({2, 3, 9}, at::kDouble), before = cache.clone();
  const CausalConv1dStepArgs step = step_args(args, cache.narrow(2, 2, 5).transpose(1, 2));
  const CausalConv1dStepArgs ref = step_args(args, before.narrow(2, 2, 5).transpose(1, 2).clone());
  causal_conv1d_step(step);
  causal_conv1d_step_ref(ref);
  check_bitwise("slice", step.state, ref.state);
  check_bitwise("left of the slice", cache.narrow(2, 0, 2), before.narrow(2, 0, 2));
  check_bitwise("right of the slice", cache.narrow(2, 7, 2), before.narrow(2, 7, 2));
}

TEST_CASE("causal_conv1d_step: empty and Meta") {
  const CausalConv1dArgs none = random_args(0, 2, 5, 4);
  CHECK(causal_conv1d_step(step_args(none, *none.initial_state)).sizes() == none.x.sizes());
  const CausalConv1dArgs args = random_args(2, 2, 5, 4);
  CausalConv1dStepArgs step = step_args(args, args.initial_state->to("meta"));
  step.x = args.x.transpose(1, 2).contiguous().transpose(1, 2).to("meta");
  step.weight = args.weight.to("meta");
  step.bias = args.bias->to("meta");
  const Tensor y = causal_conv1d_step(step);
  CHECK(y.sizes() == step.x.sizes());
  CHECK(y.strides() == step.x.strides());
}

TEST_CASE("causal_conv1d_step: refusals") {
  const CausalConv1dArgs args = random_args(2, 1, 3, 4);
  const auto refused = [&](const std::function<void(CausalConv1dStepArgs&)>& change,
                           const std::string& wanted) {
    for (auto call : {causal_conv1d_step, causal_conv1d_step_ref}) {
      CausalConv1dStepArgs step = step_args(args, args.initial_state->clone());
      change(step);
      const Tensor before = step.state.clone();
      const std::string text = message_of([&] { call(step); });
      INFO(text);
      CHECK(text.find(wanted) != std::string::npos);
      check_bitwise("state untouched", step.state, before);
    }
  };
  refused(
      [](auto& s) {
        s.state = at::randn({3, 3, 3}, at::kDouble);
      },
      "causal_conv1d_step: state must be (b=2, d=3, w-1=3), got (3, 3, 3)");
  refused(
      [](auto& s) {
        s.x = at::randn({2, 0, 3}, at::kDouble);
      },
      "causal_conv1d_step: x (b, t, d) needs t >= 1 tokens, got (2, 0, 3)");
  refused([](auto& s) { s.activation = "relu"; },
          "causal_conv1d_step: activation must be \"none\" or \"silu\", got \"relu\"");
  refused(
      [](auto& s) {
        s.src_slots = int32({0, 2});
      },
      "causal_conv1d_step: src_slots[1] is 2, but state has slots 0 ... 1");
  refused(
      [](auto& s) {
        s.src_slots = int32({0, 1});
        s.dst_slots = int32({5, 1});
      },
      "causal_conv1d_step: dst_slots[0] is 5, but state has slots 0 ... 1");
  refused(
      [](auto& s) {
        s.src_slots = int32({1, 1});
      },
      "causal_conv1d_step: rows 0 and 1 both write slot 1");
  refused(
      [](auto& s) {
        s.src_slots = int32({0, 1}).to(at::kLong);
      },
      "causal_conv1d_step: src_slots must be Int");
  CausalConv1dStepArgs step = step_args(args, args.initial_state->clone());
  step.x = args.x.clone().requires_grad_(true);
  CHECK(message_of([&] { causal_conv1d_step(step); }).find("it is inference only") !=
        std::string::npos);
}
