// The decode step: step = scan, slots, padding, half states, messages.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "cases.h"

using namespace aspis::test;
using aspis::ops::selective_scan;
using aspis::ops::selective_scan_step;
using aspis::ops::selective_scan_step_ref;
using aspis::ops::SelectiveScanStepArgs;

namespace {

SelectiveScanStepArgs step_args(const SelectiveScanArgs& args, const Tensor& state, int64_t begin,
                                int64_t count) {
  const auto cut = [&](const Tensor& t) { return t.narrow(1, begin, count); };
  SelectiveScanStepArgs out{state, cut(args.x), cut(args.delta), args.A, cut(args.B), cut(args.C)};
  out.D = args.D;
  if (args.z) out.z = cut(*args.z);
  out.delta_bias = args.delta_bias;
  out.delta_softplus = args.delta_softplus;
  return out;
}

}  // namespace

TEST_CASE("selective_scan_step: any number of tokens per call equals the scan") {
  for (const auto type : {at::kDouble, at::kFloat}) {
    const SelectiveScanArgs args = cast(make_args({3, 40, 21, 5, 3}), type);
    const auto [y, last] = selective_scan(args);
    for (const std::vector<int64_t>& calls :
         {std::vector<int64_t>(40, 1), std::vector<int64_t>{40}, {1, 5, 33, 1}}) {
      const Tensor state = args.initial_state->clone();
      std::vector<Tensor> parts;
      int64_t begin = 0;
      for (int64_t count : calls) {
        parts.push_back(selective_scan_step(step_args(args, state, begin, count)));
        begin += count;
      }
      check_bitwise("y", at::cat(parts, 1), y);
      check_bitwise("state", state, last);
    }
  }
}

TEST_CASE("selective_scan_step: slots equal the reference") {
  const SelectiveScanArgs args = make_args({5, 3, 10, 4, 2});
  const Tensor before = at::randn({7, 10, 4}, at::kDouble);
  const auto check = [&](const char* what, const std::vector<int32_t>& src,
                         const std::optional<std::vector<int32_t>>& dst) {
    Tensor ours = before.clone(), theirs = before.clone();
    SelectiveScanStepArgs a = step_args(args, ours, 0, 3), b = step_args(args, theirs, 0, 3);
    a.src_slots = b.src_slots = ints(src);
    if (dst) a.dst_slots = b.dst_slots = ints(*dst);
    const Tensor ref = selective_scan_step_ref(b);
    const Poison poison;
    check_equal_in_double(what, selective_scan_step(a), ref);
    check_equal_in_double(what, ours, theirs);
    std::vector<bool> written(7, false);
    for (size_t i = 0; i < 5; ++i) {
      const int32_t slot = dst ? (*dst)[i] : src[i];
      if (src[i] >= 0 && slot >= 0) written[size_t(slot)] = true;
      if (src[i] < 0) CHECK(ref[int64_t(i)].eq(0).all().item<bool>());
    }
    for (int64_t slot = 0; slot < 7; ++slot) {
      if (!written[size_t(slot)]) check_bitwise("untouched slot", ours[slot], before[slot]);
    }
  };
  check("in place", {6, 0, 3, 2, 1}, std::nullopt);
  check("padding", {6, -1, 3, -5, 1}, std::nullopt);
  check("other slots", {0, 1, 2, -1, 3}, std::vector<int32_t>{4, 5, 6, 0, -1});
  check("one slot read by several rows", {2, 2, 2, 2, 2}, std::vector<int32_t>{0, 1, 3, 4, 5});
  check("rows that write what others read", {0, 1, 2, 3, 4}, std::vector<int32_t>{1, 2, 3, 4, 0});
  check("nothing but padding", {-1, -1, -1, -1, -1}, std::nullopt);
}

TEST_CASE("selective_scan_step: half inputs and half states") {
  const SelectiveScanArgs wide = make_args({3, 4, 33, 16, 1});
  for (const auto type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const auto state_type : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
      const SelectiveScanArgs args = cast(wide, type);
      const Tensor ours = args.initial_state->to(state_type).clone();
      const Tensor plain = ours.clone(), exact = ours.to(at::kDouble);
      const Tensor y = selective_scan_step(step_args(args, ours, 0, 4));
      const Tensor plain_y = selective_scan_step_ref(step_args(args, plain, 0, 4));
      const Tensor exact_y =
          selective_scan_step_ref(step_args(cast(args, at::kDouble), exact, 0, 4));
      CHECK(y.scalar_type() == type);
      check_two_times("y", y, plain_y, exact_y);
      check_two_times("state", ours, plain, exact);
    }
  }
}

TEST_CASE("selective_scan_step: states with strides, empty batches") {
  const SelectiveScanArgs args = make_args({2, 1, 6, 4, 1});
  const Tensor ours = args.initial_state->transpose(1, 2).contiguous().transpose(1, 2);
  Tensor theirs = args.initial_state->clone();
  const Tensor y = selective_scan_step(step_args(args, ours, 0, 1));
  check_equal_in_double("y", y, selective_scan_step_ref(step_args(args, theirs, 0, 1)));
  check_equal_in_double("state", ours, theirs);
  const SelectiveScanArgs none = make_args({0, 1, 6, 4, 1});
  CHECK(selective_scan_step(step_args(none, *none.initial_state, 0, 1)).sizes() ==
        at::IntArrayRef({0, 1, 6}));
  SelectiveScanStepArgs no_tokens = step_args(args, ours, 0, 0);
  CHECK(selective_scan_step(no_tokens).sizes() == at::IntArrayRef({2, 0, 6}));
  check_equal_in_double("state after no tokens", ours, theirs);
}

TEST_CASE("selective_scan_step: messages") {
  const SelectiveScanArgs args = make_args({2, 1, 6, 4, 1});
  const auto fails = [&](const char* text, const auto& change) {
    SelectiveScanStepArgs step = step_args(args, at::zeros({3, 6, 4}, at::kDouble), 0, 1);
    step.src_slots = ints({0, 1});
    change(step);
    const std::string message = message_of([&] { selective_scan_step(step); });
    INFO(message);
    CHECK(message.find(text) != std::string::npos);
  };
  fails("selective_scan_step: state must be (b=2, d=6, n=4), got (3, 6, 4)",
        [](auto& s) { s.src_slots = std::nullopt; });
  fails("selective_scan_step: state must be (slots=3, d=6, n=4), got (3, 5, 4)", [](auto& s) {
    s.state = at::zeros({3, 5, 4}, at::kDouble);
  });
  fails("src_slots must be (b=2), got (1)", [](auto& s) { s.src_slots = ints({0}); });
  fails("src_slots must be Int", [](auto& s) { s.src_slots = ints({0, 1}).to(at::kLong); });
  fails("src_slots must lie below the 3 slots of state, got 3 at row 1", [](auto& s) {
    s.src_slots = ints({0, 3});
  });
  fails("dst_slots must lie below the 3 slots of state, got 7 at row 0", [](auto& s) {
    s.dst_slots = ints({7, 0});
  });
  fails("dst_slots must differ, got slot 2 for rows 0 and 1", [](auto& s) {
    s.dst_slots = ints({2, 2});
  });
  fails("dst_slots must differ, got slot 1 for rows 0 and 1", [](auto& s) {
    s.src_slots = ints({1, 1});
  });
  fails("dst_slots needs src_slots", [](auto& s) {
    s.state = at::zeros({2, 6, 4}, at::kDouble);
    s.dst_slots = s.src_slots;
    s.src_slots = std::nullopt;
  });
  fails("x must be (b, t, d), got (2, 6)", [](auto& s) { s.x = s.x.squeeze(1); });
  fails("it is inference only", [](auto& s) { s.x = s.x.clone().requires_grad_(true); });
  fails("it is inference only", [](auto& s) { s.state.requires_grad_(true); });
  fails("memory location", [](auto& s) {
    s.state = at::zeros({1, 6, 4}, at::kDouble).expand({3, 6, 4});
  });
}

TEST_CASE("selective_scan_step: meta") {
  const SelectiveScanArgs args = make_args({2, 3, 6, 4, 1});
  SelectiveScanStepArgs step = step_args(args, *args.initial_state, 0, 3);
  for (Tensor* t : {&step.state, &step.x, &step.delta, &step.A, &step.B, &step.C})
    *t = t->to("meta");
  for (auto* t : {&step.D, &step.z, &step.delta_bias}) *t = (*t)->to("meta");
  const Tensor y = selective_scan_step(step);
  CHECK(y.is_meta());
  CHECK(y.sizes() == step.x.sizes());
}
