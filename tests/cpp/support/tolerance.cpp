#include "support/tolerance.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "support/catch.h"

namespace aspis::test {

double relative_error(const at::Tensor& ours, const at::Tensor& ref) {
  if (ours.sizes() != ref.sizes()) return std::numeric_limits<double>::infinity();
  if (ours.numel() == 0) return 0.0;
  const at::Tensor a = ours.detach().cpu().to(at::kDouble), b = ref.detach().cpu().to(at::kDouble);
  const double difference = (a - b).norm().item<double>(), norm = b.norm().item<double>();
  if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
  return norm > 0 ? difference / norm : difference;
}

void check_equal_in_double(const std::string& what, const at::Tensor& ours, const at::Tensor& ref) {
  INFO(what);
  CHECK(ours.scalar_type() == at::kDouble);
  CHECK(relative_error(ours, ref) <= 1e-10);
}

void check_two_times(const std::string& what, const at::Tensor& ours, const at::Tensor& plain,
                     const at::Tensor& ref) {
  double eps = 1.2e-7;
  if (ours.scalar_type() == at::kDouble) eps = 2.3e-16;
  if (ours.scalar_type() == at::kBFloat16) eps = 7.8e-3;
  if (ours.scalar_type() == at::kHalf) eps = 9.8e-4;
  const double error = relative_error(ours, ref), allowed = 2 * relative_error(plain, ref) + eps;
  INFO(what << ": error " << error << ", allowed " << allowed);
  CHECK(error <= allowed);
}

void check_bitwise(const std::string& what, const at::Tensor& ours, const at::Tensor& other) {
  INFO(what);
  REQUIRE(ours.sizes() == other.sizes());
  REQUIRE(ours.scalar_type() == other.scalar_type());
  const at::Tensor same = ours.eq(other).logical_or(at::isnan(ours).logical_and(at::isnan(other)));
  CHECK(same.all().item<bool>());
}

namespace {

double weighted_sum(const std::vector<at::Tensor>& outputs,
                    const std::vector<at::Tensor>& weights) {
  double total = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (weights[i].defined()) total += (outputs[i].detach() * weights[i]).sum().item<double>();
  }
  return total;
}

}  // namespace

void check_gradients(
    const std::string& what,
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& f,
    const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves, wanted;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().clone());
    if (input.requires_grad()) {
      REQUIRE(input.scalar_type() == at::kDouble);
      leaves.back().set_requires_grad(true);
      wanted.push_back(leaves.back());
    }
  }
  const auto outputs = f(leaves);
  std::vector<at::Tensor> weights, roots, root_weights;
  for (const at::Tensor& output : outputs) {
    const bool differentiable = output.defined() && output.requires_grad();
    weights.push_back(differentiable ? at::randn_like(output.detach()) : at::Tensor());
    if (differentiable) {
      roots.push_back(output);
      root_weights.push_back(weights.back());
    }
  }
  REQUIRE(!roots.empty());
  const auto grads = torch::autograd::grad(roots, wanted, root_weights, /*retain_graph=*/false,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  size_t g = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    at::Tensor grad = grads[g++];
    INFO(what << ": gradient of input " << i);
    if (inputs[i].numel() == 0) continue;
    if (!grad.defined()) grad = at::zeros_like(inputs[i]);
    const auto slope = [&](const at::Tensor& direction) {
      const double h = 1e-5;
      auto plus = leaves, minus = leaves;
      for (auto* list : {&plus, &minus}) {
        for (at::Tensor& t : *list) t = t.detach();
      }
      plus[i] = leaves[i].detach() + h * direction;
      minus[i] = leaves[i].detach() - h * direction;
      return (weighted_sum(f(plus), weights) - weighted_sum(f(minus), weights)) / (2 * h);
    };
    const double scale = 1e-3 + grad.norm().item<double>();
    if (inputs[i].numel() <= 64) {
      for (int64_t k = 0; k < inputs[i].numel(); ++k) {
        at::Tensor direction = at::zeros_like(grad, at::MemoryFormat::Contiguous);
        direction.view(-1)[k] = 1;
        const double got = grad.reshape(-1)[k].item<double>();
        CHECK(std::abs(got - slope(direction)) <= 1e-6 * scale);
      }
    } else {
      for (int k = 0; k < 4; ++k) {
        const at::Tensor direction = at::randn_like(grad, at::MemoryFormat::Contiguous);
        const double got = (grad * direction).sum().item<double>();
        CHECK(std::abs(got - slope(direction)) <= 1e-6 * scale * std::sqrt(double(grad.numel())));
      }
    }
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  FAIL("expected an exception, none was thrown");
  return "";
}

}  // namespace aspis::test
