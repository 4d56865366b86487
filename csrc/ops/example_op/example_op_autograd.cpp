// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/example_op/example_op.h"
#include "ops/refusals.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor call_fwd(const Tensor& x, const Tensor& weight, double scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_example_op_fwd", "")
                             .typed<Tensor(const Tensor&, const Tensor&, double)>();
  require_kernel("example_op", op, x);
  return op.call(x, weight, scale);
}

std::tuple<Tensor, Tensor> call_bwd(const Tensor& dy, const Tensor& x, const Tensor& weight,
                                    double scale) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("aspis::_example_op_bwd", "")
          .typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, double)>();
  return op.call(dy, x, weight, scale);
}

class ExampleOpFunction : public torch::autograd::Function<ExampleOpFunction> {
 public:
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, double scale) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, weight});
    ctx->saved_data["scale"] = scale;
    return call_fwd(x, weight, scale);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined()) return {Tensor(), Tensor(), Tensor()};
    const auto saved = ctx->get_saved_variables();
    auto [dx, dweight] =
        call_bwd(grads[0], saved[0], saved[1], ctx->saved_data["scale"].toDouble());
    return {dx, dweight, Tensor()};
  }
};

Tensor example_op_autograd(const Tensor& x, const Tensor& weight, double scale) {
  refuse_functorch("example_op");
  if (any_requires_grad({x, weight})) return ExampleOpFunction::apply(x, weight, scale);
  at::AutoDispatchBelowADInplaceOrView below;
  return call_fwd(x, weight, scale);
}

std::tuple<Tensor, Tensor> example_op_bwd_autograd(const Tensor& dy, const Tensor& x,
                                                   const Tensor& weight, double scale) {
  std::tuple<Tensor, Tensor> grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = call_bwd(dy, x, weight, scale);
  }
  refuse_double_backward("example_op", {dy, x, weight}, {std::get<0>(grads), std::get<1>(grads)});
  return grads;
}

// Activations take the autocast dtype, parameters stay as they are.
template <at::DeviceType device, c10::DispatchKey key>
Tensor example_op_autocast(const Tensor& x, const Tensor& weight, double scale) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return example_op({at::autocast::cached_cast(type, x, device), weight, scale});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("example_op", example_op_autograd);
  m.impl("_example_op_bwd", example_op_bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("example_op", example_op_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("example_op", example_op_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("example_op", batching_refusal());
}

}  // namespace aspis::ops
