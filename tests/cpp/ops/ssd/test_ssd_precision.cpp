// float32, half types, extreme step sizes.
#include <ATen/ops/isfinite.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/tensor.h>

#include "cases.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;

namespace {

// The two-times rule for outputs and gradients: `plain` is the recurrence in the tested dtype.
void check_against_plain(const std::string& what, const SsdArgs& exact, at::ScalarType type) {
  const SsdArgs args = convert(exact, type), wide = convert(args, at::kDouble);
  const auto [y, last_state] = ssd_ref(wide);
  const at::Tensor dy = at::randn_like(y).to(type),
                   dlast = at::randn_like(last_state).to(at::kFloat);
  std::vector<std::string> names;
  const auto ours = outputs_and_gradients(ssd, args, dy, dlast, &names);
  const auto plain = outputs_and_gradients(ssd_ref, args, dy, dlast);
  const auto ref = outputs_and_gradients(ssd_ref, wide, dy, dlast);
  for (size_t i = 0; i < ours.size(); ++i) {
    CHECK(ours[i].scalar_type() == plain[i].scalar_type());
    CHECK(ours[i].isfinite().all().item<bool>());
    check_two_times(what + ": " + names[i], ours[i], plain[i], ref[i]);
  }
}

}  // namespace

TEST_CASE("ssd: float32, bfloat16 and float16 by the two-times rule") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    SsdCase c;
    c.l = 150;
    c.h = 16;  // gradients with few elements would be judged by luck
    c.p = 8;
    c.n = 16;
    check_against_plain(std::string("random ") + c10::toString(type), make_ssd(c), type);
    c.z = false;
    c.limits = true;
    check_against_plain(std::string("limits ") + c10::toString(type), make_ssd(c), type);
  }
}

TEST_CASE("ssd: parameters in the half type itself") {
  SsdArgs args = convert(make_ssd({}), at::kBFloat16);
  args.A = args.A.to(at::kBFloat16);
  args.D = args.D->to(at::kBFloat16);
  args.dt = args.dt.to(at::kFloat);
  const auto [y, last_state] = ssd(args);
  CHECK(y.scalar_type() == at::kBFloat16);
  CHECK(last_state.scalar_type() == at::kFloat);
  check_two_times("y", y, std::get<0>(ssd_ref(args)),
                  std::get<0>(ssd_ref(convert(args, at::kDouble))));
}

TEST_CASE("ssd: large steps do not swallow small ones behind them") {
  SsdCase c;
  c.b = 1;
  c.l = 192;
  c.h = 2;
  c.g = 1;
  c.p = 8;
  c.n = 8;
  c.z = c.D = c.dt_bias = c.dt_softplus = c.initial_state = false;
  SsdArgs args = make_ssd(c);
  args.A.fill_(-64.0);
  args.dt.fill_(1e-3);
  args.dt.narrow(1, 3, 4).fill_(50.0);
  args.dt.narrow(1, 100, 1).fill_(50.0);
  check_against_plain("dt of 50, then 1e-3", args, at::kFloat);
  // Token by token: no part may hide behind the norm of the rest.
  const SsdArgs single = convert(args, at::kFloat);
  const at::Tensor ours = std::get<0>(ssd(single)), plain = std::get<0>(ssd_ref(single)),
                   ref = std::get<0>(ssd_ref(convert(single, at::kDouble)));
  for (int64_t begin = 0; begin < c.l; begin += 8) {
    check_two_times("tokens from " + std::to_string(begin), ours.narrow(1, begin, 8),
                    plain.narrow(1, begin, 8), ref.narrow(1, begin, 8));
  }
}

TEST_CASE("ssd: mixed and extreme step sizes and decays") {
  SsdCase c;
  c.b = 1;
  c.l = 130;
  c.h = 32;  // as above: dA has one element per head
  c.p = 8;
  c.n = 8;
  c.dt_bias = c.dt_softplus = false;
  SsdArgs args = make_ssd(c);
  args.A = at::tensor({-1e-4, -1.0, -64.0, -1e4}, at::kDouble).repeat(8);
  args.dt = at::pow(10, at::rand({1, c.l, c.h}, at::kDouble) * 9 - 6);  // 1e-6 ... 1e3
  check_against_plain("nine decades", args, at::kFloat);
  compare_with_reference("nine decades in double", args);
  args.dt_min = 0.0;
  args.dt_max = 1e3;
  args.dt.narrow(1, 10, 2).fill_(1e30);
  check_against_plain("limited from above", args, at::kFloat);
  SsdArgs softplus = args;
  softplus.dt_min.reset();
  softplus.dt_max.reset();
  softplus.dt_softplus = true;
  softplus.dt = at::randn({1, c.l, c.h}, at::kDouble) * 30;  // far into both tails
  check_against_plain("softplus tails", softplus, at::kFloat);
}

TEST_CASE("ssd: a NaN shows, in its own document only") {
  SsdCase c;
  c.b = 1;
  for (const char* where : {"x", "dt", "A", "B"}) {
    SsdArgs args = convert(make_ssd(c), at::kFloat);
    std::vector<int32_t> ids(c.l, 0);
    std::fill(ids.begin() + 30, ids.end(), 1);
    args.seq_idx = int32(ids).unsqueeze(0);
    for (auto& [name, tensor] : ssd_inputs(args)) {
      if (name != where) continue;
      (name == "A" ? *tensor : tensor->select(1, 40)).fill_(std::nan(""));
    }
    const at::Tensor y = std::get<0>(ssd(args));
    INFO(where);
    CHECK(!y.narrow(1, 40, 30).isfinite().any().item<bool>());
    if (std::string(where) != "A") CHECK(y.narrow(1, 0, 30).isfinite().all().item<bool>());
  }
}
