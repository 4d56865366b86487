// Packed documents, split sequences, time reversed.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include "cases.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;

namespace {

// Tokens [begin, end) of one row, as a batch of one.
SsdArgs cut(const SsdArgs& args, int64_t row, int64_t begin, int64_t end) {
  SsdArgs out = args;
  const auto part = [&](const at::Tensor& t) {
    return t.narrow(0, row, 1).narrow(1, begin, end - begin);
  };
  out.x = part(args.x);
  out.dt = part(args.dt);
  out.B = part(args.B);
  out.C = part(args.C);
  if (args.z) out.z = part(*args.z);
  out.seq_idx.reset();
  out.cu_seqlens.reset();
  out.initial_state.reset();
  return out;
}

std::vector<int32_t> ids_of(const std::vector<std::pair<int32_t, int64_t>>& stretches) {
  std::vector<int32_t> ids;
  for (const auto& [id, count] : stretches) ids.insert(ids.end(), count, id);
  return ids;
}

}  // namespace

TEST_CASE("ssd: seq_idx, against the reference") {
  const std::vector<std::vector<std::pair<int32_t, int64_t>>> rows = {
      {{0, 70}},
      {{3, 1}, {1, 1}, {2, 68}},
      {{0, 64}, {1, 6}},
      {{0, 63}, {1, 1}, {2, 6}},
      {{-1, 5}, {4, 60}, {5, 5}},
      {{4, 30}, {-1, 10}, {4, 30}},
      {{4, 30}, {-1, 10}, {5, 30}},
      {{4, 60}, {-1, 10}},
      {{-1, 70}},
      {{1, 20}, {2, 20}, {1, 30}},
  };
  for (const bool reverse : {false, true}) {
    for (const bool state : {false, true}) {
      SsdCase c;
      c.b = rows.size();
      c.h = 2;
      c.g = 1;
      c.initial_state = state;
      SsdArgs args = make_ssd(c);
      std::vector<at::Tensor> ids;
      for (const auto& row : rows) ids.push_back(int32(ids_of(row)));
      args.seq_idx = at::stack(ids);
      args.reverse = reverse;
      compare_with_reference("seq_idx", args);
    }
  }
}

TEST_CASE("ssd: padding inside one long document") {
  SsdCase c;
  c.b = 1;
  c.l = 300;
  SsdArgs args = make_ssd(c);
  std::vector<int32_t> ids(300, 7);
  for (int64_t i = 0; i < 300; i += 3) ids[i] = -1;  // many short runs, one document of 200 tokens
  args.seq_idx = int32(ids).unsqueeze(0);
  compare_with_reference("every third token is padding", args);
  args.reverse = true;
  compare_with_reference("the same reversed", args);
}

TEST_CASE("ssd: packed by seq_idx equals apart") {
  SsdCase c;
  c.b = 1;
  c.l = 140;
  SsdArgs args = make_ssd(c);
  args.seq_idx = int32(ids_of({{0, 64}, {1, 1}, {2, 5}, {-1, 4}, {3, 66}})).unsqueeze(0);
  const at::Tensor y = std::get<0>(ssd(args));
  int64_t begin = 0;
  for (const auto& [id, count] :
       std::vector<std::pair<int, int64_t>>{{0, 64}, {1, 1}, {2, 5}, {-1, 4}, {3, 66}}) {
    SsdArgs apart = cut(args, 0, begin, begin + count);
    if (begin == 0) apart.initial_state = args.initial_state;
    const at::Tensor alone = id < 0 ? at::zeros_like(apart.x) : std::get<0>(ssd(apart));
    check_equal_in_double("document " + std::to_string(id), y.narrow(1, begin, count), alone);
    begin += count;
  }
}

TEST_CASE("ssd: cu_seqlens, against the reference and apart") {
  const std::vector<int32_t> borders = {0, 0, 1, 65, 65, 70, 199, 200, 200};
  for (const bool reverse : {false, true}) {
    SsdCase c;
    c.b = 1;
    c.l = 200;
    SsdArgs args = make_ssd(c);
    args.reverse = reverse;
    args.cu_seqlens = int32(borders);
    const int64_t docs = borders.size() - 1;
    args.initial_state = at::randn({docs, c.h, c.p, c.n}, at::kDouble);
    compare_with_reference("cu_seqlens", args);
    const auto [y, last_state] = ssd(args);
    for (int64_t i = 0; i < docs; ++i) {
      SsdArgs apart = cut(args, 0, borders[i], borders[i + 1]);
      apart.initial_state = args.initial_state->narrow(0, i, 1);
      const auto [alone, state] = ssd(apart);
      check_equal_in_double("y", y.narrow(1, borders[i], borders[i + 1] - borders[i]), alone);
      check_equal_in_double("state", last_state.narrow(0, i, 1), state);
      if (borders[i] == borders[i + 1]) {
        check_bitwise("a document without tokens", state, *apart.initial_state);
      }
    }
    args.initial_state.reset();
    compare_with_reference("cu_seqlens without states", args);
  }
}

TEST_CASE("ssd: any split with the state carried equals the whole") {
  for (const bool reverse : {false, true}) {
    SsdCase c;
    c.b = 1;
    c.l = 135;
    SsdArgs args = make_ssd(c);
    args.reverse = reverse;
    const auto [whole, last] = ssd(args);
    for (int64_t k : {0, 1, 63, 64, 65, 134, 135}) {
      SsdArgs left = cut(args, 0, 0, k), right = cut(args, 0, k, c.l);
      SsdArgs& first = reverse ? right : left;
      SsdArgs& second = reverse ? left : right;
      first.initial_state = args.initial_state;
      const auto [y1, state] = ssd(first);
      second.initial_state = state;
      const auto [y2, end] = ssd(second);
      check_equal_in_double("y", reverse ? at::cat({y2, y1}, 1) : at::cat({y1, y2}, 1), whole);
      check_equal_in_double("state", end, last);
    }
  }
}

TEST_CASE("ssd: a split carries the gradient through the state") {
  SsdCase c;
  c.b = 1;
  c.l = 90;
  const SsdArgs args = make_ssd(c);
  const auto [y, last_state] = ssd(args);
  const at::Tensor dy = at::randn_like(y), dlast = at::randn_like(last_state);
  const SsdOp in_two = [&](const SsdArgs& a) {
    SsdArgs first = cut(a, 0, 0, 37), second = cut(a, 0, 37, c.l);
    first.initial_state = a.initial_state;
    const auto [y1, state] = ssd(first);
    second.initial_state = state;
    const auto [y2, end] = ssd(second);
    return std::tuple{at::cat({y1, y2}, 1), end};
  };
  std::vector<std::string> names;
  const auto whole = outputs_and_gradients(ssd, args, dy, dlast, &names);
  const auto split = outputs_and_gradients(in_two, args, dy, dlast);
  for (size_t i = 0; i < whole.size(); ++i) check_equal_in_double(names[i], split[i], whole[i]);
}

TEST_CASE("ssd: reversed time equals flipped tensors") {
  SsdArgs args = make_ssd({});
  SsdArgs flipped = args;
  for (at::Tensor* t : {&flipped.x, &flipped.dt, &flipped.B, &flipped.C, &*flipped.z})
    *t = t->flip(1);
  flipped.reverse = true;
  const auto [y, last_state] = ssd(args);
  const auto [back, back_state] = ssd(flipped);
  check_bitwise("y", back.flip(1), y);
  check_bitwise("last_state", back_state, last_state);
}
