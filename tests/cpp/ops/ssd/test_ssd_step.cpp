// Decoding: step = scan, slots, padding, state dtypes.
#include <ATen/ops/randn.h>

#include "cases.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;

namespace {

// Tokens [begin, begin + t) of args, on this state.
SsdStepArgs step_args(const SsdArgs& args, const at::Tensor& state, int64_t begin, int64_t t) {
  SsdStepArgs out;
  out.state = state;
  out.x = args.x.narrow(1, begin, t);
  out.dt = args.dt.narrow(1, begin, t);
  out.A = args.A;
  out.B = args.B.narrow(1, begin, t);
  out.C = args.C.narrow(1, begin, t);
  out.D = args.D;
  if (args.z) out.z = args.z->narrow(1, begin, t);
  out.dt_bias = args.dt_bias;
  out.dt_softplus = args.dt_softplus;
  out.dt_min = args.dt_min;
  out.dt_max = args.dt_max;
  return out;
}

}  // namespace

TEST_CASE("ssd_step: equals the scan, for any number of tokens per call") {
  const Poisoned poisoned;
  for (const bool plain : {false, true}) {
    SsdCase c;
    c.l = 7;
    c.n = 19;
    c.D = c.z = c.dt_bias = !plain;
    c.limits = plain;
    const SsdArgs args = make_ssd(c);
    const auto [y, last_state] = ssd(args);
    for (int64_t t : {1, 2, 7}) {
      const at::Tensor state = args.initial_state->clone();
      for (int64_t begin = 0; begin < c.l; begin += t) {
        const int64_t count = std::min(t, c.l - begin);
        const at::Tensor out = ssd_step(step_args(args, state, begin, count));
        check_equal_in_double("y", out, y.narrow(1, begin, count));
      }
      check_equal_in_double("state", state, last_state);
    }
  }
}

TEST_CASE("ssd_step: tokens in one call equal calls of one token, bit by bit") {
  SsdCase c;
  c.l = 6;
  const SsdArgs args = convert(make_ssd(c), at::kFloat);
  const at::Tensor one = args.initial_state->clone(), many = one.clone();
  const at::Tensor y = ssd_step(step_args(args, many, 0, c.l));
  for (int64_t l = 0; l < c.l; ++l) {
    check_bitwise("y", ssd_step(step_args(args, one, l, 1)), y.narrow(1, l, 1));
  }
  check_bitwise("state", one, many);
}

TEST_CASE("ssd_step: slots and padding, against the reference") {
  const Poisoned poisoned;
  SsdCase c;
  c.b = 4;
  c.l = 3;
  const SsdArgs args = make_ssd(c);
  const at::Tensor states = at::randn({6, c.h, c.p, c.n}, at::kDouble);
  const std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>> slots = {
      {{5, 0, 2, 3}, {}},
      {{5, -1, 2, -7}, {}},
      {{5, 0, 2, 3}, {1, -1, 2, 4}},
      {{0, 1, 2, 3}, {1, 2, 3, 0}},   // every row reads what another one writes
      {{2, 2, 2, -1}, {0, 1, 3, 5}},  // one prefix, several continuations; padding writes nothing
  };
  for (const auto& [src, dst] : slots) {
    const at::Tensor ours = states.clone(), wanted = states.clone();
    SsdStepArgs step = step_args(args, ours, 0, c.l);
    step.src_slots = int32(src);
    if (!dst.empty()) step.dst_slots = int32(dst);
    SsdStepArgs reference = step;
    reference.state = wanted;
    check_equal_in_double("y", ssd_step(step), ssd_step_ref(reference));
    check_equal_in_double("states", ours, wanted);
    const auto written = dst.empty() ? src : dst;
    for (int64_t slot = 0; slot < 6; ++slot) {
      bool touched = false;
      for (size_t i = 0; i < src.size(); ++i) touched |= src[i] >= 0 && written[i] == slot;
      if (!touched) check_bitwise("untouched slot", ours[slot], states[slot]);
    }
  }
}

TEST_CASE("ssd_step: state dtypes and strides") {
  SsdCase c;
  c.l = 4;
  const SsdArgs args = convert(make_ssd(c), at::kFloat);
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    const at::Tensor ours = args.initial_state->to(type, false, /*copy=*/true);
    const at::Tensor plain = ours.clone(), ref = ours.to(at::kDouble);
    const at::Tensor y = ssd_step(step_args(args, ours, 0, c.l));
    const at::Tensor y_plain = ssd_step_ref(step_args(args, plain, 0, c.l));
    const at::Tensor y_ref = ssd_step_ref(step_args(convert(args, at::kDouble), ref, 0, c.l));
    check_two_times("y", y, y_plain, y_ref);
    check_two_times("state", ours, plain, ref);
  }
  // Half inputs on a float32 state.
  const SsdArgs half = convert(args, at::kBFloat16);
  const at::Tensor ours = args.initial_state->clone(), plain = ours.clone();
  const at::Tensor ref = ours.to(at::kDouble);
  const at::Tensor y = ssd_step(step_args(half, ours, 0, c.l));
  CHECK(y.scalar_type() == at::kBFloat16);
  check_two_times("half y", y, ssd_step_ref(step_args(half, plain, 0, c.l)),
                  ssd_step_ref(step_args(convert(half, at::kDouble), ref, 0, c.l)));
  check_two_times("half state", ours, plain, ref);
  // A state laid out (slots, n, p, h).
  const at::Tensor turned =
      args.initial_state->permute({0, 3, 2, 1}).contiguous().permute({0, 3, 2, 1});
  const at::Tensor dense = args.initial_state->clone();
  check_bitwise("strided y", ssd_step(step_args(args, turned, 0, c.l)),
                ssd_step(step_args(args, dense, 0, c.l)));
  check_bitwise("strided state", turned, dense);
}

TEST_CASE("ssd_step: empty") {
  SsdCase c;
  c.b = 0;
  c.l = 2;
  const SsdArgs args = make_ssd(c);
  CHECK(ssd_step(step_args(args, args.initial_state->clone(), 0, 2)).sizes() == args.x.sizes());
}

TEST_CASE("ssd_step: messages") {
  SsdCase c;
  c.b = 2;
  c.l = 1;
  const SsdArgs args = make_ssd(c);
  const at::Tensor state = at::randn({3, c.h, c.p, c.n}, at::kDouble);
  SsdStepArgs step = step_args(args, state, 0, 1);
  const auto says = [&](const std::string& text) {
    const std::string message = message_of([&] { ssd_step(step); });
    INFO(message);
    CHECK(message.find(text) != std::string::npos);
  };
  says("ssd_step: state must be (b=2, h=4, p=5, n=6), got (3, 4, 5, 6)");
  step.src_slots = int32({0, 3});
  says("ssd_step: src_slots must lie below slots=3 (negative = none), got 3 at row 1");
  step.src_slots = int32({1, 1});
  says("ssd_step: two rows write slot 1 (rows 0 and 1)");
  step.src_slots = int32({1, 2});
  step.dst_slots = int32({0, 5});
  says("ssd_step: dst_slots must lie below slots=3 (negative = none), got 5 at row 1");
  step.dst_slots = int32({0}).to(at::kLong);
  says("ssd_step: dst_slots must be (b=2), got (1)");
  step.dst_slots = int32({0, 1}).to(at::kLong);
  says("ssd_step: dst_slots must be Int (slot numbers), got Long");
  step.dst_slots.reset();
  step.x = step.x.clone().set_requires_grad(true);
  says("aspis::ssd_step: an input requires grad, but it is inference only");
}
