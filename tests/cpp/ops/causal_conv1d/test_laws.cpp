// Packed = apart, any split = whole, reverse = flipped, padding changes nothing.
#include <ATen/Parallel.h>
#include <ATen/ops/stack.h>
#include <torch/csrc/autograd/autograd.h>

#include "cases.h"

using namespace aspis::test;

namespace {

CausalConv1dArgs tokens_of(const CausalConv1dArgs& args, int64_t row, int64_t begin, int64_t end) {
  CausalConv1dArgs part = args;
  part.x = args.x.narrow(0, row, 1).narrow(1, begin, end - begin);
  part.seq_idx.reset();
  part.cu_seqlens.reset();
  part.initial_state.reset();
  return part;
}

}  // namespace

TEST_CASE("causal_conv1d: documents packed by seq_idx = each apart") {
  const Poison poison;
  const std::vector<std::vector<int64_t>> lengths = {
      {1, 2, 3, 4, 5, 1, 1, 7}, {32, 32, 1}, {31, 33, 2, 128, 1}, {130}, {3, 3, 3}};
  for (int64_t w : {1, 3, 4, 6}) {
    for (const auto& row : lengths) {
      int64_t l = 0;
      for (int64_t n : row) l += n;
      CausalConv1dArgs args = random_args(1, l, 5, w);
      Tensor ids = at::zeros({1, l}, at::kInt);
      std::vector<Tensor> apart;
      Tensor last;
      int64_t begin = 0;
      for (size_t i = 0; i < row.size(); ++i) {
        ids.narrow(1, begin, row[i]).fill_(i % 2 == 0 ? 3 : 0);  // a border is any change
        CausalConv1dArgs part = tokens_of(args, 0, begin, begin + row[i]);
        if (i == 0) part.initial_state = args.initial_state;
        const auto [y, state] = causal_conv1d(part);
        apart.push_back(y);
        last = state;
        begin += row[i];
      }
      args.seq_idx = ids;
      check_both("seq_idx", causal_conv1d(args), {at::cat(apart, 1), last});
      check_both("seq_idx, reference", causal_conv1d_ref(args), {at::cat(apart, 1), last});
    }
  }
}

TEST_CASE("causal_conv1d: padding is not there for the window") {
  const Poison poison;
  // Left, middle, right, around a border, everywhere; real tokens of a row in order make `want`.
  const std::vector<std::vector<int64_t>> rows = {
      {-1, -1, 5, 5, 5, 5, 5, 5}, {5, 5, -1, 5, -2, -3, 5, 5}, {5, 5, 5, 5, 5, 5, -1, -1},
      {5, 5, -1, 7, 7, 7, -1, 5}, {5, -1, 7, -1, 9, -1, 9, 9}, {-1, -1, -1, -1, -1, -1, -1, -1}};
  for (bool reverse : {false, true}) {
    for (const auto& ids : rows) {
      CausalConv1dArgs args = random_args(1, 8, 4, 4);
      args.reverse = reverse;
      args.seq_idx = int32(ids).unsqueeze(0);
      std::vector<int64_t> kept, kept_ids;
      for (int64_t i = 0; i < 8; ++i) {
        if (ids[i] >= 0) kept.push_back(i), kept_ids.push_back(ids[i]);
      }
      const Tensor places = at::tensor(kept, at::TensorOptions(at::kLong));
      CausalConv1dArgs dense = args;
      dense.x = args.x.index_select(1, places);
      dense.seq_idx = int32(kept_ids).unsqueeze(0);
      // What lies in padding must not matter.
      Tensor dirty = at::zeros({1, 8, 4}, at::kDouble).fill_(std::nan(""));
      dirty.index_copy_(1, places, dense.x);
      args.x = dirty;
      const auto [want, want_last] = causal_conv1d_ref(dense);
      Tensor y = at::zeros({1, 8, 4}, at::kDouble);
      y.index_copy_(1, places, want);
      check_both("padding", causal_conv1d(args), {y, want_last});
      check_both("padding, reference", causal_conv1d_ref(args), {y, want_last});

      args.x = dirty.detach().requires_grad_(true);
      const Tensor dx =
          torch::autograd::grad({std::get<0>(causal_conv1d(args)).sum()}, {args.x})[0];
      dense.x = dense.x.detach().requires_grad_(true);
      Tensor want_dx = at::zeros({1, 8, 4}, at::kDouble);
      if (!kept.empty()) {
        want_dx.index_copy_(
            1, places,
            torch::autograd::grad({std::get<0>(causal_conv1d_ref(dense)).sum()}, {dense.x})[0]);
      }
      check_equal_in_double("gradient beside padding", dx, want_dx);
    }
  }
}

TEST_CASE("causal_conv1d: documents packed by cu_seqlens = each apart, with states and gradients") {
  const Poison poison;
  for (bool reverse : {false, true}) {
    for (int64_t w : {1, 4}) {
      const std::vector<int64_t> borders = {0, 0, 1, 3, 6, 10, 42, 42, 75, 203, 204};
      const int64_t docs = static_cast<int64_t>(borders.size()) - 1;
      CausalConv1dArgs args = random_args(1, 204, 3, w);
      args.reverse = reverse;
      args.cu_seqlens = int32(borders);
      args.initial_state = at::randn({docs, 3, w - 1}, at::kDouble).requires_grad_(true);
      args.x.requires_grad_(true);
      std::vector<Tensor> ys, lasts;
      for (int64_t i = 0; i < docs; ++i) {
        CausalConv1dArgs part = tokens_of(args, 0, borders[i], borders[i + 1]);
        part.initial_state = args.initial_state->narrow(0, i, 1);
        const auto [y, last] = causal_conv1d(part);
        ys.push_back(y);
        lasts.push_back(last);
      }
      const std::tuple<Tensor, Tensor> apart{at::cat(ys, 1), at::cat(lasts)};
      const auto packed = causal_conv1d(args);
      check_both("cu_seqlens", packed, apart);
      check_both("cu_seqlens, reference", causal_conv1d_ref(args), apart);
      const Tensor dy = at::randn_like(args.x), dlast = at::randn_like(*args.initial_state);
      const auto grads = [&](const std::tuple<Tensor, Tensor>& out) {
        return torch::autograd::grad({std::get<0>(out), std::get<1>(out)},
                                     {args.x, *args.initial_state}, {dy, dlast});
      };
      const auto ours = grads(packed), want = grads(apart);
      for (size_t i = 0; i < 2; ++i) check_equal_in_double("gradients", ours[i], want[i]);
      // A document without tokens returns its initial state, unrounded.
      check_bitwise("empty document", std::get<1>(packed)[0].detach(),
                    (*args.initial_state)[0].detach());
    }
  }
}

TEST_CASE("causal_conv1d: any split with carried state = whole") {
  const Poison poison;
  const CausalConv1dArgs whole = random_args(2, 70, 5, 4);
  const auto want = causal_conv1d(whole);
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{0, 1, 70}, {0, 2, 3, 5, 70}, {0, 32, 64, 70}, {0, 0, 33, 69, 70}}) {
    std::vector<Tensor> ys;
    CausalConv1dArgs part = whole;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      part.x = whole.x.narrow(1, cuts[i], cuts[i + 1] - cuts[i]);
      const auto [y, last] = causal_conv1d(part);
      ys.push_back(y);
      part.initial_state = last;
    }
    check_both("split", {at::cat(ys, 1), *part.initial_state}, want);
  }
}

TEST_CASE("causal_conv1d: reverse = flipped") {
  const Poison poison;
  for (int64_t l : {1, 3, 33, 140}) {
    CausalConv1dArgs args = random_args(2, l, 5, 4);
    CausalConv1dArgs flipped = args;
    args.reverse = true;
    flipped.x = args.x.flip(1);
    const auto [y, last] = causal_conv1d(flipped);
    check_both("reverse", causal_conv1d(args), {y.flip(1), last});
    check_both("reverse, reference", causal_conv1d_ref(args), {y.flip(1), last});
  }
}

TEST_CASE("causal_conv1d: same bits whatever the number of threads") {
  CausalConv1dArgs args = random_args(2, 400, 600, 4);
  for (Tensor* t : {&args.x, &args.weight, &*args.bias, &*args.initial_state}) {
    *t = t->to(at::kFloat).requires_grad_(true);
  }
  const auto run = [&] {
    const auto [y, last] = causal_conv1d(args);
    auto out = torch::autograd::grad({y.pow(2).sum(), last.sum()},
                                     {args.x, args.weight, *args.bias, *args.initial_state});
    out.push_back(y);
    return out;
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const auto two = run();
  at::set_num_threads(1);
  const auto one = run();
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) check_bitwise("threads", two[i], one[i]);
}
