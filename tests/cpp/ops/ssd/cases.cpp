#include "cases.h"

#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/dispatch.h"
#include "support/catch.h"
#include "support/tolerance.h"

namespace aspis::test {

ops::SsdArgs make_ssd(const SsdCase& c) {
  const auto type = at::kDouble;
  ops::SsdArgs args;
  args.x = at::randn({c.b, c.l, c.h, c.p}, type);
  args.dt = at::randn({c.b, c.l, c.h}, type);
  args.A = -at::rand({c.h}, type) - 0.1;
  args.B = at::randn({c.b, c.l, c.g, c.n}, type);
  args.C = at::randn({c.b, c.l, c.g, c.n}, type);
  if (c.D) args.D = c.D_per_channel ? at::randn({c.h, c.p}, type) : at::randn({c.h}, type);
  if (c.z) args.z = at::randn({c.b, c.l, c.h, c.p}, type);
  if (c.dt_bias) args.dt_bias = at::randn({c.h}, type);
  args.dt_softplus = c.dt_softplus;
  if (!c.dt_softplus) args.dt = args.dt.abs();
  if (c.limits) {
    args.dt_min = 0.3;
    args.dt_max = 1.2;
  }
  if (c.initial_state) args.initial_state = at::randn({c.b, c.h, c.p, c.n}, type);
  args.return_last_state = true;
  return args;
}

std::vector<std::pair<std::string, at::Tensor*>> ssd_inputs(ops::SsdArgs& args) {
  std::vector<std::pair<std::string, at::Tensor*>> out = {
      {"x", &args.x}, {"dt", &args.dt}, {"A", &args.A}, {"B", &args.B}, {"C", &args.C}};
  if (args.D) out.emplace_back("D", &*args.D);
  if (args.z) out.emplace_back("z", &*args.z);
  if (args.dt_bias) out.emplace_back("dt_bias", &*args.dt_bias);
  if (args.initial_state) out.emplace_back("initial_state", &*args.initial_state);
  return out;
}

ops::SsdArgs convert(const ops::SsdArgs& args, at::ScalarType type) {
  ops::SsdArgs out = args;
  for (auto& [name, tensor] : ssd_inputs(out)) {
    const bool precise = name == "A" || name == "D" || name == "dt_bias" || name == "initial_state";
    *tensor = tensor->detach().to(precise ? compute_type(type) : type);
  }
  return out;
}

std::vector<at::Tensor> outputs_and_gradients(const SsdOp& op, const ops::SsdArgs& args,
                                              const at::Tensor& dy, const at::Tensor& dlast,
                                              std::vector<std::string>* names) {
  ops::SsdArgs leaves = args;
  std::vector<at::Tensor> wanted;
  std::vector<std::string> labels = {"y"};
  if (args.return_last_state) labels.push_back("last_state");
  for (auto& [name, tensor] : ssd_inputs(leaves)) {
    *tensor = tensor->detach().set_requires_grad(true);
    wanted.push_back(*tensor);
    labels.push_back("d" + name);
  }
  const auto [y, last_state] = op(leaves);
  std::vector<at::Tensor> out = {y.detach()}, roots, weights;
  if (args.return_last_state) out.push_back(last_state.detach());
  // A reference of empty tensors may depend on no input at all.
  if (dy.defined() && y.requires_grad()) {
    roots.push_back(y);
    weights.push_back(dy.to(y.scalar_type()));
  }
  if (dlast.defined() && last_state.requires_grad()) {
    roots.push_back(last_state);
    weights.push_back(dlast.to(last_state.scalar_type()));
  }
  const auto grads = torch::autograd::grad(roots, wanted, weights, false, false, true);
  for (size_t i = 0; i < wanted.size(); ++i) {
    out.push_back(grads[i].defined() ? grads[i] : at::zeros_like(wanted[i]));
  }
  if (names) *names = labels;
  return out;
}

void compare_with_reference(const std::string& what, const ops::SsdArgs& args) {
  const Poisoned poisoned;
  const auto [y, last_state] = ops::ssd_ref(args);
  const at::Tensor dy = at::randn_like(y);
  const at::Tensor dlast = args.return_last_state ? at::randn_like(last_state) : at::Tensor();
  std::vector<std::string> names;
  const auto ours = outputs_and_gradients(ops::ssd, args, dy, dlast, &names);
  const auto wanted = outputs_and_gradients(ops::ssd_ref, args, dy, dlast);
  for (size_t i = 0; i < ours.size(); ++i) {
    check_equal_in_double(what + ": " + names[i], ours[i], wanted[i]);
  }
  // Without gradients nothing is saved; the result is the same.
  check_bitwise(what + ": y without gradients", std::get<0>(ops::ssd(args)), ours[0]);
}

at::Tensor int32(const std::vector<int32_t>& values) {
  return at::tensor(values, at::kInt);
}

}  // namespace aspis::test
