#include "ops/refusals.h"

#include <ATen/FuncTorchTLS.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>

namespace aspis::ops {
namespace {

void refuse_batching(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK(
      false, op.schema().name(),
      ": torch.func transforms (vmap, grad, vjp, jvp) are not supported. The op takes a batch "
      "dimension of its own: call it with batched tensors and use torch.autograd for gradients");
}

}  // namespace

torch::CppFunction batching_refusal() {
  return torch::CppFunction::makeFromBoxedFunction<&refuse_batching>();
}

void refuse_functorch(const char* op) {
  const auto& tls = at::functorch::functorchTLSAccessor();
  if (!tls) return;
  try {
    tls->checkSupportsCppAutogradFunction();
  } catch (const c10::Error&) {
    TORCH_CHECK(
        false, "aspis::", op,
        ": torch.func transforms (vmap, grad, vjp, jvp) are not supported. The op takes a batch "
        "dimension of its own: call it with batched tensors and use torch.autograd for gradients");
  }
}

void refuse_double_backward(const char* op, const std::vector<at::Tensor>& inputs,
                            const std::vector<at::Tensor>& outputs) {
  if (!c10::GradMode::is_enabled() || !torch::autograd::any_variable_requires_grad(inputs)) return;
  std::vector<at::Tensor> differentiable;
  for (const at::Tensor& output : outputs) {
    if (output.defined()) differentiable.push_back(output);
  }
  auto node = std::make_shared<torch::autograd::Error>(
      std::string("aspis::") + op +
          ": second derivatives are not supported. Differentiate once, or call the reference "
          "aspis::" +
          op + "_ref, which supports any order",
      torch::autograd::collect_next_edges(inputs));
  torch::autograd::set_history(differentiable, node);
}

bool any_requires_grad(std::initializer_list<std::optional<at::Tensor>> tensors) {
  if (!c10::GradMode::is_enabled()) return false;
  for (const auto& tensor : tensors) {
    if (tensor && tensor->defined() && tensor->requires_grad()) return true;
  }
  return false;
}

void refuse_gradient(const char* op, std::initializer_list<std::optional<at::Tensor>> tensors,
                     const char* why) {
  TORCH_CHECK(!any_requires_grad(tensors), "aspis::", op, ": an input requires grad, but ", why,
              ". Call it under torch.no_grad() or detach the input");
}

void require_kernel(const char* op, const c10::OperatorHandle& handle, const at::Tensor& input) {
  if (!input.is_cuda()) return;
  TORCH_CHECK(
      handle.hasKernelForDispatchKey(c10::DispatchKey::CUDA), "aspis::", op,
      " has no CUDA kernel in this build. Move the tensors to the CPU, or choose the reference "
      "implementation explicitly: aspis::",
      op, "_ref in code, \"ops\": \"reference\" in a config");
}

}  // namespace aspis::ops
