// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/refusals.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight,
                               const Tensor& targets, const OptionalTensor& token_weights,
                               int64_t ignore_index, double label_smoothing, double z_loss,
                               double logit_scale) {
    ctx->set_materialize_grads(false);
    const bool need_dhidden = hidden.requires_grad(), need_dweight = weight.requires_grad();
    at::AutoDispatchBelowADInplaceOrView below;
    auto [loss_sum, num_valid, dhidden, dweight] =
        linear_cross_entropy_fwd({hidden, weight, targets, token_weights, ignore_index,
                                  label_smoothing, z_loss, logit_scale},
                                 need_dhidden, need_dweight);
    ctx->save_for_backward({hidden, weight, dhidden, dweight});
    ctx->saved_data["need_dhidden"] = need_dhidden;
    ctx->saved_data["need_dweight"] = need_dweight;
    ctx->mark_non_differentiable({num_valid});
    return {loss_sum, num_valid};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(8);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    auto [dhidden, dweight] =
        linear_cross_entropy_bwd(grads[0], saved[0], saved[1], saved[2], saved[3]);
    if (ctx->saved_data["need_dhidden"].toBool()) out[0] = dhidden;
    if (ctx->saved_data["need_dweight"].toBool()) out[1] = dweight;
    return out;
  }
};

std::tuple<Tensor, Tensor> linear_cross_entropy_autograd(const Tensor& hidden, const Tensor& weight,
                                                         const Tensor& targets,
                                                         const OptionalTensor& token_weights,
                                                         int64_t ignore_index,
                                                         double label_smoothing, double z_loss,
                                                         double logit_scale) {
  refuse_functorch("linear_cross_entropy");
  refuse_gradient("linear_cross_entropy", {token_weights}, "token_weights is not differentiable");
  if (any_requires_grad({hidden, weight})) {
    const auto out = LinearCrossEntropyFunction::apply(
        hidden, weight, targets, token_weights, ignore_index, label_smoothing, z_loss, logit_scale);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  auto [loss_sum, num_valid, dhidden, dweight] = linear_cross_entropy_fwd(
      {hidden, weight, targets, token_weights, ignore_index, label_smoothing, z_loss, logit_scale},
      false, false);
  return {loss_sum, num_valid};
}

// hidden and weight come along for the sake of their history: the saved gradients have none, and a
// second derivative would silently lack their part.
std::tuple<Tensor, Tensor> linear_cross_entropy_bwd_autograd(const Tensor& dloss,
                                                             const Tensor& hidden,
                                                             const Tensor& weight,
                                                             const Tensor& dhidden,
                                                             const Tensor& dweight) {
  std::tuple<Tensor, Tensor> grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = linear_cross_entropy_bwd(dloss, hidden, weight, dhidden, dweight);
  }
  refuse_double_backward("linear_cross_entropy", {dloss, hidden, weight, dhidden, dweight},
                         {std::get<0>(grads), std::get<1>(grads)});
  return grads;
}

// hidden and weight take the autocast dtype, as in a linear layer; token_weights stays float32.
template <at::DeviceType device, c10::DispatchKey key>
std::tuple<Tensor, Tensor> linear_cross_entropy_autocast(const Tensor& hidden, const Tensor& weight,
                                                         const Tensor& targets,
                                                         const OptionalTensor& token_weights,
                                                         int64_t ignore_index,
                                                         double label_smoothing, double z_loss,
                                                         double logit_scale) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return linear_cross_entropy({at::autocast::cached_cast(type, hidden, device),
                               at::autocast::cached_cast(type, weight, device), targets,
                               token_weights, ignore_index, label_smoothing, z_loss, logit_scale});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("linear_cross_entropy", linear_cross_entropy_autograd);
  m.impl("_linear_cross_entropy_bwd", linear_cross_entropy_bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("linear_cross_entropy",
         linear_cross_entropy_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("linear_cross_entropy",
         linear_cross_entropy_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("linear_cross_entropy", batching_refusal());
  m.impl("_linear_cross_entropy_fwd", batching_refusal());
  m.impl("_linear_cross_entropy_bwd", batching_refusal());
}

}  // namespace aspis::ops
