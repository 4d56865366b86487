// Forward and gradients against the reference: lengths, options, groups, strides, empty tensors.
#include <ATen/Parallel.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>

#include "cases.h"
#include "ops/selective_scan/selective_scan.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;

TEST_CASE("ssd: lengths around the chunk") {
  for (int64_t l : {1, 2, 7, 63, 64, 65, 127, 128, 131}) {
    SsdCase c;
    c.l = l;
    compare_with_reference("l = " + std::to_string(l), make_ssd(c));
  }
}

TEST_CASE("ssd: head and state sizes") {
  for (const auto& [p, n] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {3, 2}, {8, 16}, {16, 8}, {17, 33}, {64, 128}, {70, 20}}) {
    SsdCase c;
    c.b = 1;
    c.p = p;
    c.n = n;
    compare_with_reference("p = " + std::to_string(p) + ", n = " + std::to_string(n), make_ssd(c));
  }
}

TEST_CASE("ssd: heads and groups") {
  for (const auto& [h, g] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {2, 2}, {3, 1}, {6, 3}, {8, 1}, {24, 1}, {27, 1}, {40, 2}}) {
    SsdCase c;
    c.b = 1;
    c.h = h;
    c.g = g;
    compare_with_reference("h = " + std::to_string(h) + ", g = " + std::to_string(g), make_ssd(c));
  }
}

TEST_CASE("ssd: options") {
  for (int bits = 0; bits < 64; ++bits) {
    SsdCase c;
    c.l = 67;
    c.D = bits & 1;
    c.D_per_channel = bits & 2;
    c.z = bits & 2;
    c.dt_bias = bits & 4;
    c.dt_softplus = bits & 8;
    c.limits = bits & 16;
    c.initial_state = bits & 32;
    SsdArgs args = make_ssd(c);
    args.reverse = bits & 1;
    args.return_last_state = !(bits & 4);
    compare_with_reference("options " + std::to_string(bits), args);
  }
}

TEST_CASE("ssd: one limit alone, growing states") {
  SsdArgs args = make_ssd({});
  args.dt_min = 0.5;
  compare_with_reference("dt_min", args);
  args.dt_min.reset();
  args.dt_max = 0.5;
  compare_with_reference("dt_max", args);
  args.A = args.A.abs() * 0.05;
  compare_with_reference("positive A", args);
}

TEST_CASE("ssd: gradients of one output alone") {
  const SsdArgs args = make_ssd({});
  const auto [y, last_state] = ssd_ref(args);
  const at::Tensor dy = at::randn_like(y), dlast = at::randn_like(last_state), none;
  for (const auto& [what, a, b] : std::vector<std::tuple<std::string, at::Tensor, at::Tensor>>{
           {"y", dy, none}, {"last", none, dlast}}) {
    std::vector<std::string> names;
    const auto ours = outputs_and_gradients(ssd, args, a, b, &names);
    const auto wanted = outputs_and_gradients(ssd_ref, args, a, b);
    for (size_t i = 0; i < ours.size(); ++i) {
      check_equal_in_double(what + " only: " + names[i], ours[i], wanted[i]);
    }
  }
}

TEST_CASE("ssd: finite differences, kernel and reference") {
  for (const bool reference : {false, true}) {
    SsdCase c;
    c.b = 1;
    c.h = 2;
    c.p = 3;
    c.n = 2;
    c.l = reference ? 9 : 66;
    const SsdArgs args = make_ssd(c);
    const auto f = [&](const std::vector<at::Tensor>& in) {
      SsdArgs a = args;
      size_t i = 0;
      for (auto& [name, tensor] : ssd_inputs(a)) *tensor = in[i++];
      const auto [y, last_state] = reference ? ssd_ref(a) : ssd(a);
      return std::vector<at::Tensor>{y, last_state};
    };
    std::vector<at::Tensor> inputs;
    SsdArgs copy = args;
    for (auto& [name, tensor] : ssd_inputs(copy)) {
      inputs.push_back(tensor->clone().set_requires_grad(true));
    }
    check_gradients(reference ? "ssd_ref" : "ssd", f, inputs);
  }
}

TEST_CASE("ssd: strides") {
  SsdCase c;
  c.h = 2;
  c.g = 1;
  c.p = 4;
  c.n = 3;
  const SsdArgs plain = make_ssd(c);
  SsdArgs args = plain;
  // Time last in memory.
  args.x = plain.x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  args.z = plain.z->permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  args.dt = plain.dt.transpose(1, 2).contiguous().transpose(1, 2);
  args.B = plain.B.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  compare_with_reference("time last", args);
  CHECK(std::get<0>(ssd(args)).strides() == args.x.strides());
  // Slices of one packed projection (x, B, C, dt).
  const at::Tensor packed = at::randn({c.b, c.l, 8 + 3 + 3 + 2}, at::kDouble);
  args = plain;
  args.x = packed.narrow(2, 0, 8).view({c.b, c.l, 2, 4});
  args.B = packed.narrow(2, 8, 3).unsqueeze(2);
  args.C = packed.narrow(2, 11, 3).unsqueeze(2);
  args.dt = packed.narrow(2, 14, 2);
  compare_with_reference("packed", args);
  // Expanded over time, batch and heads.
  args = plain;
  args.x = at::randn({1, 1, 2, 4}, at::kDouble).expand({c.b, c.l, 2, 4});
  args.B = at::randn({c.b, 1, 1, 3}, at::kDouble).expand({c.b, c.l, 1, 3});
  args.dt = at::randn({c.b, c.l, 1}, at::kDouble).expand({c.b, c.l, 2});
  args.A = (-at::rand({1}, at::kDouble)).expand({2});
  args.initial_state = at::randn({1, 2, 4, 3}, at::kDouble).expand({c.b, 2, 4, 3});
  compare_with_reference("expanded", args);
}

TEST_CASE("ssd: empty tensors") {
  for (const auto& [b, l, h, p, n] : std::vector<std::array<int64_t, 5>>{
           {0, 3, 2, 4, 5}, {2, 0, 2, 4, 5}, {2, 3, 0, 4, 5}, {2, 3, 2, 0, 5}, {2, 3, 2, 4, 0}}) {
    SsdCase c;
    c.b = b;
    c.l = l;
    c.h = h;
    c.g = 1;
    c.p = p;
    c.n = n;
    compare_with_reference("empty " + std::to_string(b) + std::to_string(l) + std::to_string(h) +
                               std::to_string(p) + std::to_string(n),
                           make_ssd(c));
  }
  SsdCase c;
  c.l = 0;
  const SsdArgs args = make_ssd(c);
  const at::Tensor last = std::get<1>(ssd(args));
  check_bitwise("l = 0 returns the initial state", last, *args.initial_state);
  CHECK(last.data_ptr() != args.initial_state->data_ptr());
  SsdArgs without = args;
  without.initial_state.reset();
  check_bitwise("l = 0 without a state", std::get<1>(ssd(without)), at::zeros_like(last));
}

TEST_CASE("ssd: same bits again and for any number of threads") {
  SsdCase c;
  c.h = 24;
  c.g = 1;
  c.l = 150;
  const SsdArgs args = convert(make_ssd(c), at::kFloat);
  const auto [y, last_state] = ssd(args);
  const at::Tensor dy = at::randn_like(y), dlast = at::randn_like(last_state);
  const int threads = at::get_num_threads();
  const auto first = outputs_and_gradients(ssd, args, dy, dlast);
  for (const int n : {threads, 1, 3}) {
    at::set_num_threads(n);
    const auto again = outputs_and_gradients(ssd, args, dy, dlast);
    for (size_t i = 0; i < first.size(); ++i) {
      check_bitwise(std::to_string(n) + " threads, output " + std::to_string(i), again[i],
                    first[i]);
    }
  }
  at::set_num_threads(threads);
}

namespace {

// The same by the selective scan: one channel per (head, p), A repeated over p and n.
std::tuple<at::Tensor, at::Tensor> by_scan(const SsdArgs& args, bool reference) {
  const int64_t b = args.x.size(0), l = args.x.size(1), h = args.x.size(2), p = args.x.size(3),
                n = args.B.size(3), d = h * p;
  SelectiveScanArgs scan;
  scan.x = args.x.reshape({b, l, d});
  scan.delta = args.dt.repeat_interleave(p, 2);
  scan.A = args.A.repeat_interleave(p, 0).unsqueeze(-1).expand({d, n});
  scan.B = args.B;
  scan.C = args.C;
  if (args.D) scan.D = args.D->repeat_interleave(p, 0);
  if (args.z) scan.z = args.z->reshape({b, l, d});
  if (args.dt_bias) scan.delta_bias = args.dt_bias->repeat_interleave(p, 0);
  scan.delta_softplus = args.dt_softplus;
  if (args.initial_state) scan.initial_state = args.initial_state->reshape({b, d, n});
  scan.reverse = args.reverse;
  scan.return_last_state = true;
  const auto [y, last_state] = reference ? selective_scan_ref(scan) : selective_scan(scan);
  return {y.reshape({b, l, h, p}), last_state.reshape({b, h, p, n})};
}

}  // namespace

TEST_CASE("ssd: equals the selective scan where A is one number per head") {
  for (const bool reference : {false, true}) {
    SsdCase c;
    SsdArgs args = make_ssd(c);
    args.reverse = reference;
    const auto [y, last_state] = ssd_ref(args);
    const at::Tensor dy = at::randn_like(y), dlast = at::randn_like(last_state);
    std::vector<std::string> names;
    const SsdOp scan = [&](const SsdArgs& a) { return by_scan(a, reference); };
    const auto theirs = outputs_and_gradients(scan, args, dy, dlast, &names);
    const auto ours = outputs_and_gradients(reference ? ssd_ref : ssd, args, dy, dlast);
    for (size_t i = 0; i < ours.size(); ++i) check_equal_in_double(names[i], ours[i], theirs[i]);
  }
}
