#pragma once
// What an op does not do, said in a sentence instead of a silent detour: batching transforms,
// second derivatives, gradients through inference-only ops, devices without a kernel.

#include <ATen/core/Tensor.h>
#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>
#include <string>

namespace aspis::ops {

// Kernel for the FuncTorchBatched key. Left out, vmap would loop over the batch without a word.
//   TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) { m.impl("ssd", batching_refusal()); }
torch::CppFunction batching_refusal();

// Throws inside torch.func transforms (grad, vjp, jvp ...), which C++ autograd functions do not
// support.
void refuse_functorch(const char* op);

// Gives the outputs of a backward op a history that throws when a second derivative reaches them.
// `inputs` are the backward op's own inputs. Call it in the Autograd kernel of `_<op>_bwd`.
void refuse_double_backward(const char* op, const std::vector<at::Tensor>& inputs,
                            const std::vector<at::Tensor>& outputs);

// Throws if grad mode is on and any of these requires a gradient: for inference-only ops, and for
// arguments that are not differentiable (`why` completes the sentence).
void refuse_gradient(const char* op, std::initializer_list<std::optional<at::Tensor>> tensors,
                     const char* why = "it is inference only");

// Throws unless the operator has a kernel for the tensor's device, naming both and the way out.
void require_kernel(const char* op, const c10::OperatorHandle& handle, const at::Tensor& input);

// True if any tensor needs a gradient and grad mode is on: then a forward saves for its backward.
bool any_requires_grad(std::initializer_list<std::optional<at::Tensor>> tensors);

}  // namespace aspis::ops
