#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/alloc.h"
#include "ops/example_op/example_op.h"
#include "ops/example_op/plan.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;

TEST_CASE("example_op: forward equals the reference") {
  const bool before = aspis::poison_allocations(true);
  for (int64_t d : {1, 7, 16, 33}) {
    const at::Tensor x = at::randn({2, 3, d}, at::kDouble), w = at::randn({d}, at::kDouble);
    check_equal_in_double("contiguous", example_op({x, w, 0.5}), example_op_ref({x, w, 0.5}));
    const at::Tensor xt = at::randn({2, d, 3}, at::kDouble).transpose(1, 2);
    const at::Tensor y = example_op({xt, w, 0.5});
    check_equal_in_double("transposed", y, example_op_ref({xt, w, 0.5}));
    CHECK(y.strides() == xt.strides());
  }
  aspis::poison_allocations(before);
}

TEST_CASE("example_op: gradients") {
  const auto f = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{example_op({in[0], in[1], 1.5})};
  };
  check_gradients("example_op", f,
                  {at::randn({2, 70, 3}, at::kDouble).requires_grad_(true),
                   at::randn({3}, at::kDouble).requires_grad_(true)});
}

TEST_CASE("example_op: second derivatives are refused") {
  const at::Tensor x = at::randn({1, 2, 3}, at::kDouble).requires_grad_(true);
  const at::Tensor w = at::randn({3}, at::kDouble).requires_grad_(true);
  const at::Tensor y = example_op({x, w, 1.0}).pow(2).sum();
  const auto grads = torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true);
  const std::string text =
      message_of([&] { torch::autograd::grad({grads[0].sum()}, {w}, {}, true, false, true); });
  CHECK(text.find("second derivatives are not supported") != std::string::npos);
}

TEST_CASE("example_op: messages") {
  const at::Tensor x = at::randn({2, 3, 4});
  CHECK(message_of([&] {
          example_op({x, at::randn({5}), 1.0});
        }).find("example_op: weight must be (d=4), got (5)") != std::string::npos);
}

TEST_CASE("example_op: half inputs, empty inputs, meta") {
  const at::Tensor x = at::randn({2, 3, 4}), w = at::randn({4});
  const at::Tensor y = example_op({x.to(at::kBFloat16), w, 2.0});
  CHECK(y.scalar_type() == at::kBFloat16);
  check_two_times("bfloat16", y, example_op_ref({x.to(at::kBFloat16), w, 2.0}),
                  example_op_ref({x.to(at::kBFloat16).to(at::kDouble), w.to(at::kDouble), 2.0}));
  CHECK(example_op({at::empty({0, 3, 4}), w, 1.0}).numel() == 0);
  CHECK(example_op({x.to("meta"), w.to("meta"), 1.0}).sizes() == x.sizes());
}

TEST_CASE("example_op: plan") {
  const ExampleOpPlan plan = plan_example_op(16384, 4096, 132);
  CHECK(plan.channel_blocks == 32);
  CHECK(plan.row_blocks * plan.rows_per_block >= 16384);
  CHECK(plan.workspace_bytes == plan.row_blocks * 4096 * 4);
}
