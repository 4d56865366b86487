#pragma once
// What the test files of this folder share: random arguments and documents.

#include <ATen/TensorIndexing.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "core/alloc.h"
#include "ops/causal_conv1d/causal_conv1d.h"
#include "support/catch.h"
#include "support/tolerance.h"

namespace aspis::test {

using at::Tensor;
using ops::causal_conv1d;
using ops::causal_conv1d_ref;
using ops::CausalConv1dArgs;

// Fresh tensors are NaN while this lives.
struct Poison {
  bool before = poison_allocations(true);
  ~Poison() { poison_allocations(before); }
};

inline CausalConv1dArgs random_args(int64_t b, int64_t l, int64_t d, int64_t w,
                                    const char* activation = "silu") {
  CausalConv1dArgs args;
  args.x = at::randn({b, l, d}, at::kDouble);
  args.weight = at::randn({d, w}, at::kDouble);
  args.bias = at::randn({d}, at::kDouble);
  args.activation = activation;
  args.initial_state = at::randn({b, d, w - 1}, at::kDouble);
  args.return_last_state = true;
  return args;
}

inline Tensor int32(const std::vector<int64_t>& values) {
  return at::tensor(values, at::TensorOptions(at::kLong)).to(at::kInt);
}

inline void check_both(const std::string& what, const std::tuple<Tensor, Tensor>& ours,
                       const std::tuple<Tensor, Tensor>& ref) {
  check_equal_in_double(what + ", y", std::get<0>(ours), std::get<0>(ref));
  check_equal_in_double(what + ", last_state", std::get<1>(ours), std::get<1>(ref));
}

}  // namespace aspis::test
