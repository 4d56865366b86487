#include "ops/self_check.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/cpu/isa.h"
#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/causal_conv1d/causal_conv1d.h"
#include "ops/gated_rms_norm/gated_rms_norm.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/op_table.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/selective_scan/selective_scan.h"
#include "ops/ssd/ssd.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// An op as a function of its floating inputs, once through the kernels and once through the
// reference.
struct Case {
  const char* op;
  Tensors inputs;  // float32 on the CPU
  std::function<Tensors(const Tensors&, bool reference)> call;
  bool differentiable = true;
};

Tensors pair(std::tuple<Tensor, Tensor> both) {
  return {std::get<0>(both), std::get<1>(both)};
}

constexpr int64_t kB = 2, kL = 70, kD = 24, kN = 16, kH = 4, kP = 8, kG = 2, kW = 4, kV = 40;

Tensor normal(at::IntArrayRef sizes) {
  return at::randn(sizes);
}
Tensor negative(at::IntArrayRef sizes) {
  return at::rand(sizes) * -2 - 0.1;
}

std::vector<Case> sequence_cases() {
  return {{"causal_conv1d",
           {normal({kB, kL, kD}), normal({kD, kW}), normal({kD}), normal({kB, kD, kW - 1})},
           [](const Tensors& t, bool reference) {
             const CausalConv1dArgs args{.x = t[0],
                                         .weight = t[1],
                                         .bias = t[2],
                                         .activation = "silu",
                                         .initial_state = t[3],
                                         .return_last_state = true};
             return pair(reference ? causal_conv1d_ref(args) : causal_conv1d(args));
           }},
          {"selective_scan",
           {normal({kB, kL, kD}), normal({kB, kL, kD}), negative({kD, kN}),
            normal({kB, kL, kG, kN}), normal({kB, kL, kG, kN}), normal({kD}), normal({kB, kL, kD}),
            normal({kD}), normal({kB, kD, kN})},
           [](const Tensors& t, bool reference) {
             const SelectiveScanArgs args{.x = t[0],
                                          .delta = t[1],
                                          .A = t[2],
                                          .B = t[3],
                                          .C = t[4],
                                          .D = t[5],
                                          .z = t[6],
                                          .delta_bias = t[7],
                                          .delta_softplus = true,
                                          .initial_state = t[8],
                                          .return_last_state = true};
             return pair(reference ? selective_scan_ref(args) : selective_scan(args));
           }},
          {"ssd",
           {normal({kB, kL, kH, kP}), normal({kB, kL, kH}), negative({kH}),
            normal({kB, kL, kG, kN}), normal({kB, kL, kG, kN}), normal({kH}),
            normal({kB, kL, kH, kP}), normal({kH}), normal({kB, kH, kP, kN})},
           [](const Tensors& t, bool reference) {
             const SsdArgs args{.x = t[0],
                                .dt = t[1],
                                .A = t[2],
                                .B = t[3],
                                .C = t[4],
                                .D = t[5],
                                .z = t[6],
                                .dt_bias = t[7],
                                .dt_softplus = true,
                                .initial_state = t[8],
                                .return_last_state = true};
             return pair(reference ? ssd_ref(args) : ssd(args));
           }}};
}

std::vector<Case> row_cases() {
  const Tensor targets = at::randint(kV, {kL}, at::kLong);
  return {
      {"rms_norm",
       {normal({kL, kD}), normal({kD})},
       [](const Tensors& t, bool reference) {
         const RmsNormArgs args{.x = t[0], .weight = t[1], .group_size = kD / 2};
         return Tensors{reference ? rms_norm_ref(args) : rms_norm(args)};
       }},
      {"add_rms_norm",
       {normal({kL, kD}), normal({kL, kD}), normal({kD})},
       [](const Tensors& t, bool reference) {
         const AddRmsNormArgs args{.x = t[0], .residual = t[1], .weight = t[2]};
         return pair(reference ? add_rms_norm_ref(args) : add_rms_norm(args));
       }},
      {"gated_rms_norm",
       {normal({kL, kD}), normal({kL, kD}), normal({kD})},
       [](const Tensors& t, bool reference) {
         const GatedRmsNormArgs args{.x = t[0], .z = t[1], .weight = t[2], .group_size = kD / 2};
         return Tensors{reference ? gated_rms_norm_ref(args) : gated_rms_norm(args)};
       }},
      {"linear_cross_entropy",
       {normal({kL, kD}), normal({kV, kD})},
       [targets](const Tensors& t, bool reference) {
         const LinearCrossEntropyArgs args{
             .hidden = t[0], .weight = t[1], .targets = targets.to(t[0].device())};
         return Tensors{
             std::get<0>(reference ? linear_cross_entropy_ref(args) : linear_cross_entropy(args))};
       }},
      {"token_nll",
       {normal({kL, kD}), normal({kV, kD})},
       [targets](const Tensors& t, bool reference) {
         const TokenNllArgs args{
             .hidden = t[0], .weight = t[1], .targets = targets.to(t[0].device())};
         return Tensors{reference ? token_nll_ref(args) : token_nll(args)};
       },
       false}};
}

// Step ops update their first input; it is returned too, so that it is compared.
std::vector<Case> step_cases() {
  return {{"causal_conv1d_step",
           {normal({kB, kD, kW - 1}), normal({kB, 3, kD}), normal({kD, kW})},
           [](const Tensors& t, bool reference) {
             const CausalConv1dStepArgs args{
                 .x = t[1], .state = t[0].clone(), .weight = t[2], .activation = "silu"};
             const Tensor y = reference ? causal_conv1d_step_ref(args) : causal_conv1d_step(args);
             return Tensors{y, args.state};
           },
           false},
          {"selective_scan_step",
           {normal({kB, kD, kN}), normal({kB, 3, kD}), normal({kB, 3, kD}), negative({kD, kN}),
            normal({kB, 3, kG, kN}), normal({kB, 3, kG, kN}), normal({kD})},
           [](const Tensors& t, bool reference) {
             const SelectiveScanStepArgs args{.state = t[0].clone(),
                                              .x = t[1],
                                              .delta = t[2],
                                              .A = t[3],
                                              .B = t[4],
                                              .C = t[5],
                                              .D = t[6],
                                              .delta_softplus = true};
             const Tensor y = reference ? selective_scan_step_ref(args) : selective_scan_step(args);
             return Tensors{y, args.state};
           },
           false},
          {"ssd_step",
           {normal({kB, kH, kP, kN}), normal({kB, 3, kH, kP}), normal({kB, 3, kH}), negative({kH}),
            normal({kB, 3, kG, kN}), normal({kB, 3, kG, kN}), normal({kH})},
           [](const Tensors& t, bool reference) {
             const SsdStepArgs args{.state = t[0].clone(),
                                    .x = t[1],
                                    .dt = t[2],
                                    .A = t[3],
                                    .B = t[4],
                                    .C = t[5],
                                    .D = t[6],
                                    .dt_softplus = true};
             const Tensor y = reference ? ssd_step_ref(args) : ssd_step(args);
             return Tensors{y, args.state};
           },
           false}};
}

double relative_error(const Tensor& ours, const Tensor& reference) {
  const Tensor a = ours.detach().cpu().to(at::kDouble), b = reference.detach().cpu();
  const double error = (a - b).norm().item<double>() / (1e-30 + b.norm().item<double>());
  return std::isnan(error) ? INFINITY : error;
}

// Outputs and, for differentiable ops, the gradients of a fixed weighted sum of them.
struct Result {
  Tensors outputs, grads;
};

Result run(const Case& item, const at::TensorOptions& options, bool reference,
           const Tensors& weights) {
  Tensors inputs;
  for (const Tensor& input : item.inputs) {
    inputs.push_back(input.to(options).detach().set_requires_grad(item.differentiable));
  }
  Result out;
  out.outputs = item.call(inputs, reference);
  if (item.differentiable) {
    Tensors grads;
    for (const Tensor& weight : weights) grads.push_back(weight.to(options));
    out.grads = torch::autograd::grad(out.outputs, inputs, grads);
  }
  return out;
}

SelfCheck check(const Case& item, c10::Device device) {
  SelfCheck result{.op = item.op, .backend = "", .problem = ""};
  const auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  if (!has_kernels(item.op, key)) {
    result.backend = "no kernel";
    return result;
  }
  result.backend = device.is_cuda() ? "cuda" : std::string("cpu ") + cpu::isa_name(cpu::isa());
  try {
    Tensors weights;
    const auto wide = at::TensorOptions().dtype(at::kDouble);
    for (const Tensor& output :
         run({item.op, item.inputs, item.call, false}, wide, true, {}).outputs) {
      weights.push_back(at::randn_like(output));
    }
    const Result reference = run(item, wide, true, weights);
    const Result ours =
        run(item, at::TensorOptions().dtype(at::kFloat).device(device), false, weights);
    for (size_t i = 0; i < ours.outputs.size(); ++i) {
      result.forward_error =
          std::max(result.forward_error, relative_error(ours.outputs[i], reference.outputs[i]));
    }
    for (size_t i = 0; i < ours.grads.size(); ++i) {
      result.backward_error =
          std::max(result.backward_error, relative_error(ours.grads[i], reference.grads[i]));
    }
    result.passed = result.forward_error <= 1e-5 && result.backward_error <= 1e-5;
  } catch (const std::exception& error) {
    result.problem = error.what();
  }
  return result;
}

}  // namespace

std::vector<SelfCheck> self_check(c10::Device device) {
  std::vector<SelfCheck> out;
  for (const auto& cases : {sequence_cases(), row_cases(), step_cases()}) {
    for (const Case& item : cases) out.push_back(check(item, device));
  }
  return out;
}

}  // namespace aspis::ops
