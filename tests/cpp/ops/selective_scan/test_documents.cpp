// Packed = apart, split = whole, reverse = flipped.
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "cases.h"

using namespace aspis::test;
using aspis::ops::selective_scan;
using aspis::ops::selective_scan_ref;

namespace {

// Tokens [begin, begin + count) of one row; the state is given or absent.
SelectiveScanArgs slice(SelectiveScanArgs args, int64_t row, int64_t begin, int64_t count,
                        const std::optional<Tensor>& state) {
  const auto cut = [&](const Tensor& t) { return t.narrow(0, row, 1).narrow(1, begin, count); };
  for (Tensor* tensor : {&args.x, &args.delta, &args.B, &args.C}) *tensor = cut(*tensor);
  if (args.z) args.z = cut(*args.z);
  args.initial_state = state;
  args.seq_idx = args.cu_seqlens = std::nullopt;
  return args;
}

SelectiveScanArgs flip(SelectiveScanArgs args) {
  for (Tensor* tensor : {&args.x, &args.delta, &args.B, &args.C}) *tensor = tensor->flip(1);
  if (args.z) args.z = args.z->flip(1);
  if (args.seq_idx) args.seq_idx = args.seq_idx->flip(1);
  args.reverse = !args.reverse;
  return args;
}

std::vector<int32_t> repeat(const std::vector<std::pair<int32_t, int>>& runs) {
  std::vector<int32_t> ids;
  for (const auto& [id, count] : runs) ids.insert(ids.end(), count, id);
  return ids;
}

// Rows of 140 tokens: borders at and around 32, 64 and 128, documents of one token, padding left,
// in the middle of a document, between documents and right, a document number used twice, nothing
// but padding.
const std::vector<std::vector<int32_t>> kRows = {
    repeat({{0, 32}, {1, 32}, {2, 64}, {3, 12}}),
    repeat({{4, 31}, {5, 1}, {6, 1}, {7, 96}, {8, 11}}),
    repeat({{-1, 5}, {3, 60}, {-7, 3}, {3, 40}, {9, 20}, {-1, 12}}),
    repeat({{0, 20}, {1, 20}, {0, 20}, {-1, 10}, {1, 70}}),
    repeat({{-1, 140}}),
    repeat({{0, 129}, {-1, 1}, {1, 10}}),
};

SelectiveScanArgs packed_rows() {
  SelectiveScanArgs args = make_args({6, 140, 5, 3, 1});
  std::vector<Tensor> rows;
  for (const auto& row : kRows) rows.push_back(ints(row).unsqueeze(0));
  args.seq_idx = at::cat(rows);
  return args;
}

}  // namespace

TEST_CASE("selective_scan: seq_idx equals the reference") {
  SelectiveScanArgs args = packed_rows();
  check_against_reference("seq_idx", args);
  args.reverse = true;
  check_against_reference("seq_idx, reverse", args);
}

TEST_CASE("selective_scan: documents packed by seq_idx equal documents apart") {
  const SelectiveScanArgs args = packed_rows();
  const auto [y, last] = selective_scan(args);
  for (size_t row = 0; row < kRows.size(); ++row) {
    const auto& ids = kRows[row];
    // the state of the document that is open, and the document's id
    std::optional<Tensor> state = args.initial_state->narrow(0, int64_t(row), 1);
    int32_t open = -1;
    for (size_t begin = 0; begin < ids.size();) {
      size_t end = begin;
      while (end < ids.size() && ids[end] == ids[begin]) ++end;
      const Tensor ours = y[int64_t(row)].narrow(0, int64_t(begin), int64_t(end - begin));
      if (ids[begin] < 0) {
        CHECK(ours.eq(0).all().item<bool>());
      } else {
        if (open >= 0 && open != ids[begin]) state = std::nullopt;
        open = ids[begin];
        const auto [part, next] =
            selective_scan(slice(args, int64_t(row), int64_t(begin), int64_t(end - begin), state));
        check_bitwise("row " + std::to_string(row), ours, part[0]);
        state = next;
      }
      begin = end;
    }
    check_bitwise("last_state", last[int64_t(row)], (*state)[0]);
  }
}

TEST_CASE("selective_scan: what lies in another document cannot leak") {
  SelectiveScanArgs args = packed_rows();
  args.x.select(0, 0).narrow(0, 0, 32).fill_(std::numeric_limits<double>::infinity());
  const auto [y, last] = selective_scan(args);
  CHECK(y[0].narrow(0, 32, 108).isfinite().all().item<bool>());
  std::vector<Tensor> weights;
  const Result ours = run(selective_scan, args, weights);
  CHECK(ours.grads[0][0].narrow(0, 32, 108).isfinite().all().item<bool>());
}

TEST_CASE("selective_scan: cu_seqlens equals the reference and documents apart") {
  // empty documents first, in the middle and last, single tokens, long ones
  const std::vector<int32_t> borders = {0, 0, 1, 33, 33, 65, 66, 200, 201, 330, 330};
  const int64_t docs = int64_t(borders.size()) - 1, l = borders.back();
  SelectiveScanArgs args = make_args({1, l, 4, 3, 2});
  args.cu_seqlens = ints(borders);
  args.initial_state = at::randn({docs, 4, 3}, at::kDouble);
  for (bool reverse : {false, true}) {
    args.reverse = reverse;
    check_against_reference("cu_seqlens", args);
    const auto [y, last] = selective_scan(args);
    for (int64_t i = 0; i < docs; ++i) {
      const int64_t count = borders[i + 1] - borders[i];
      const auto [part, state] =
          selective_scan(slice(args, 0, borders[i], count, args.initial_state->narrow(0, i, 1)));
      check_bitwise("y", y.narrow(1, borders[i], count), part);
      check_bitwise("state", last[i], state[0]);
    }
  }
  args.initial_state = std::nullopt;
  check_against_reference("cu_seqlens without initial states", args);
  args.x = args.x.narrow(1, 0, 0);
  args.delta = args.delta.narrow(1, 0, 0);
  args.z = args.z->narrow(1, 0, 0);
  args.B = args.B.narrow(1, 0, 0);
  args.C = args.C.narrow(1, 0, 0);
  args.cu_seqlens = ints({0});
  CHECK(std::get<1>(selective_scan(args)).sizes() == at::IntArrayRef({0, 4, 3}));
}

TEST_CASE("selective_scan: many documents of mixed lengths") {
  std::vector<int32_t> borders = {0};
  for (int i = 0; i < 150; ++i) {
    borders.push_back(borders.back() + (i % 50 == 7 ? 150 : (i * 7) % 11));
  }
  SelectiveScanArgs args = make_args({1, borders.back(), 3, 2, 1});
  args.cu_seqlens = ints(borders);
  args.initial_state = at::randn({150, 3, 2}, at::kDouble);
  check_against_reference("150 documents", args);
}

TEST_CASE("selective_scan: any split with carried state equals the whole") {
  const SelectiveScanArgs args = make_args({1, 150, 6, 3, 2});
  const auto [y, last] = selective_scan(args);
  for (const std::vector<int64_t>& pieces : {std::vector<int64_t>{1, 149},
                                             {32, 118},
                                             {33, 64, 53},
                                             {0, 150},
                                             {150, 0},
                                             {7, 1, 100, 0, 42}}) {
    std::optional<Tensor> state = args.initial_state;
    std::vector<Tensor> parts;
    int64_t begin = 0;
    for (int64_t count : pieces) {
      const auto [part, next] = selective_scan(slice(args, 0, begin, count, state));
      parts.push_back(part);
      state = next;
      begin += count;
    }
    check_bitwise("y", at::cat(parts, 1), y);
    check_bitwise("last_state", *state, last);
  }
}

TEST_CASE("selective_scan: gradients flow through a split") {
  const SelectiveScanArgs args = make_args({1, 50, 4, 2, 1});
  const auto split = [&](const SelectiveScanArgs& whole) {
    const auto [first, state] = selective_scan(slice(whole, 0, 0, 19, whole.initial_state));
    const auto [second, last] = selective_scan(slice(whole, 0, 19, 31, state));
    return Outputs{at::cat({first, second}, 1), last};
  };
  std::vector<Tensor> weights;
  const Result whole = run(selective_scan, args, weights);
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs_of(args)) leaves.push_back(input.detach().requires_grad_(true));
  const auto [y, last] = split(with_inputs(args, leaves));
  const auto grads = torch::autograd::grad({y, last}, leaves, weights);
  for (size_t i = 0; i < grads.size(); ++i) {
    check_equal_in_double("gradient " + std::to_string(i), grads[i], whole.grads[i]);
  }
}

TEST_CASE("selective_scan: reverse equals flipped") {
  for (const SelectiveScanArgs& args : {make_args({2, 70, 6, 3, 2}), packed_rows()}) {
    const auto [y, last] = selective_scan(args);
    const auto [flipped, flipped_last] = selective_scan(flip(args));
    check_bitwise("y", flipped.flip(1), y);
    check_bitwise("last_state", flipped_last, last);
  }
}
