#pragma once
// Inputs and comparisons that the selective_scan tests share.

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>
#include <vector>

#include "core/alloc.h"
#include "core/dispatch.h"
#include "ops/selective_scan/selective_scan.h"
#include "support/catch.h"
#include "support/tolerance.h"

namespace aspis::test {

using at::Tensor;
using ops::SelectiveScanArgs;
using Outputs = std::tuple<Tensor, Tensor>;
using Scan = Outputs (*)(const SelectiveScanArgs&);

// Fresh allocations hold NaN while this lives.
struct Poison {
  bool before = poison_allocations(true);
  ~Poison() { poison_allocations(before); }
};

struct Sizes {
  int64_t b = 2, l = 37, d = 6, n = 3, g = 1;
};

// Every input present, float64, softplus on, last state asked for.
inline SelectiveScanArgs make_args(const Sizes& s) {
  SelectiveScanArgs args;
  args.x = at::randn({s.b, s.l, s.d}, at::kDouble);
  args.delta = at::randn({s.b, s.l, s.d}, at::kDouble);
  args.A = -0.1 - at::rand({s.d, s.n}, at::kDouble) * 2;
  args.B = at::randn({s.b, s.l, s.g, s.n}, at::kDouble);
  args.C = at::randn({s.b, s.l, s.g, s.n}, at::kDouble);
  args.D = at::randn({s.d}, at::kDouble);
  args.z = at::randn({s.b, s.l, s.d}, at::kDouble);
  args.delta_bias = at::randn({s.d}, at::kDouble) - 1;
  args.delta_softplus = true;
  args.initial_state = at::randn({s.b, s.d, s.n}, at::kDouble);
  args.return_last_state = true;
  return args;
}

// Only what the op requires.
inline SelectiveScanArgs make_bare_args(const Sizes& s) {
  SelectiveScanArgs args = make_args(s);
  args.delta = at::rand({s.b, s.l, s.d}, at::kDouble);
  args.D = args.z = args.delta_bias = args.initial_state = std::nullopt;
  args.delta_softplus = args.return_last_state = false;
  return args;
}

// The differentiable inputs that are present, in the order of the schema, with their names.
inline std::vector<Tensor> inputs_of(const SelectiveScanArgs& args,
                                     std::vector<std::string>* names = nullptr) {
  std::vector<Tensor> out;
  const auto add = [&](const char* name, const std::optional<Tensor>& tensor) {
    if (!tensor) return;
    out.push_back(*tensor);
    if (names) names->push_back(name);
  };
  add("x", args.x);
  add("delta", args.delta);
  add("A", args.A);
  add("B", args.B);
  add("C", args.C);
  add("D", args.D);
  add("z", args.z);
  add("delta_bias", args.delta_bias);
  add("initial_state", args.initial_state);
  return out;
}

// The inverse of inputs_of: `args` with these tensors in place of its own.
inline SelectiveScanArgs with_inputs(SelectiveScanArgs args, const std::vector<Tensor>& inputs) {
  size_t i = 0;
  for (Tensor* tensor : {&args.x, &args.delta, &args.A, &args.B, &args.C}) *tensor = inputs[i++];
  for (auto* tensor : {&args.D, &args.z, &args.delta_bias, &args.initial_state}) {
    if (*tensor) *tensor = inputs[i++];
  }
  return args;
}

// Activations in `type`; A, D, bias and state in the compute type.
inline SelectiveScanArgs cast(SelectiveScanArgs args, at::ScalarType type) {
  for (Tensor* tensor : {&args.x, &args.delta, &args.B, &args.C}) *tensor = tensor->to(type);
  if (args.z) args.z = args.z->to(type);
  const auto compute = compute_type(type);
  args.A = args.A.to(compute);
  for (auto* tensor : {&args.D, &args.delta_bias, &args.initial_state}) {
    if (*tensor) *tensor = (*tensor)->to(compute);
  }
  return args;
}

struct Result {
  Tensor y, last;
  std::vector<Tensor> grads;
};

// Outputs and the gradients of all inputs for given output gradients (drawn here if empty).
inline Result run(Scan scan, const SelectiveScanArgs& args, std::vector<Tensor>& output_grads) {
  std::vector<Tensor> leaves;
  // detach keeps strides, so the leaves have those of the inputs
  for (const Tensor& input : inputs_of(args)) {
    leaves.push_back(input.detach().requires_grad_(true));
  }
  const auto [y, last] = scan(with_inputs(args, leaves));
  std::vector<Tensor> roots{y};
  if (args.return_last_state) roots.push_back(last);
  if (output_grads.empty()) {
    for (const Tensor& root : roots) output_grads.push_back(at::randn_like(root.detach()));
  }
  // An empty reference has no history: its gradients stay undefined.
  std::vector<Tensor> grads(leaves.size()), used, weights;
  for (size_t i = 0; i < roots.size(); ++i) {
    if (!roots[i].requires_grad()) continue;
    used.push_back(roots[i]);
    weights.push_back(output_grads[i].to(roots[i].scalar_type()));
  }
  if (!used.empty()) grads = torch::autograd::grad(used, leaves, weights, false, false, true);
  return {y.detach(), last.detach(), grads};
}

// Outputs and all gradients of the op equal those of the reference, in double, allocations
// poisoned.
inline void check_against_reference(const std::string& what, const SelectiveScanArgs& args) {
  std::vector<Tensor> weights;
  const Result ref = run(ops::selective_scan_ref, args, weights);
  const Poison poison;
  const Result ours = run(ops::selective_scan, args, weights);
  check_equal_in_double(what + ": y", ours.y, ref.y);
  check_equal_in_double(what + ": last_state", ours.last, ref.last);
  const auto [y, last] = ops::selective_scan(args);  // the path that saves nothing
  check_bitwise(what + ": y without grad", y, ours.y);
  check_bitwise(what + ": last_state without grad", last, ours.last);
  std::vector<std::string> names;
  inputs_of(args, &names);
  for (size_t i = 0; i < names.size(); ++i) {
    INFO(what << ": d" << names[i]);
    REQUIRE(ours.grads[i].defined());
    check_equal_in_double(what + ": d" + names[i], ours.grads[i],
                          ref.grads[i].defined() ? ref.grads[i] : at::zeros_like(ours.grads[i]));
  }
}

inline Tensor ints(const std::vector<int32_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kInt));
}

}  // namespace aspis::test
