// On a GPU only: scripts/test_gpu.sh runs the tests tagged [gpu].
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/alloc.h"
#include "ops/example_op/example_op.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using namespace aspis::test;
using at::Tensor;

namespace {

struct Result {
  Tensor y, dx, dweight;
};

Result run(const Tensor& x, const Tensor& weight, bool reference) {
  const Tensor a = x.detach().clone().requires_grad_(true);
  const Tensor w = weight.detach().clone().requires_grad_(true);
  const Tensor y = reference ? example_op_ref({a, w, 0.7}) : example_op({a, w, 0.7});
  const auto grads = torch::autograd::grad({y}, {a, w}, {at::ones_like(y)});
  return {y.detach(), grads[0], grads[1]};
}

}  // namespace

TEST_CASE("example_op on a GPU: the two-times rule for every dtype, odd sizes and strides",
          "[.gpu]") {
  const bool before = aspis::poison_allocations(true);
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t d : {1, 33, 130, 1024}) {
      for (const bool transposed : {false, true}) {
        const Tensor base = at::randn({2, 67, d}).to(at::kCUDA, type);
        const Tensor x = transposed ? base.transpose(0, 1) : base;
        const Tensor w = at::randn({d}).to(at::kCUDA);
        const Result ours = run(x, w, false), plain = run(x, w, true);
        const Result ref = run(x.to(at::kDouble), w.to(at::kDouble), true);
        check_two_times("y", ours.y, plain.y, ref.y);
        check_two_times("dx", ours.dx, plain.dx, ref.dx);
        check_two_times("dweight", ours.dweight, plain.dweight, ref.dweight);
        const Result again = run(x, w, false);
        check_bitwise("dweight again", ours.dweight, again.dweight);
        CHECK(ours.y.strides() == again.y.strides());
      }
    }
  }
  aspis::poison_allocations(before);
}

TEST_CASE("example_op on a GPU: float64 is refused by name", "[.gpu]") {
  const Tensor x = at::randn({1, 2, 3}, at::kDouble).to(at::kCUDA);
  CHECK(message_of([&] {
          example_op({x, x[0][0], 1.0});
        }).find("aspis::example_op: the CUDA kernel takes float32, float16 or bfloat16") !=
        std::string::npos);
}
