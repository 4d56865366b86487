// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/causal_conv1d/operators.h"
#include "ops/refusals.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

OptionalTensor if_defined(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

class CausalConv1dFunction : public torch::autograd::Function<CausalConv1dFunction> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                               const OptionalTensor& bias, const std::string& activation,
                               const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
                               const OptionalTensor& cu_seqlens, bool reverse,
                               bool return_last_state) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, weight, bias.value_or(Tensor()), initial_state.value_or(Tensor()),
                            seq_idx.value_or(Tensor()), cu_seqlens.value_or(Tensor())});
    ctx->saved_data["activation"] = activation;
    ctx->saved_data["reverse"] = reverse;
    auto [y, last_state] = call_causal_conv1d_fwd(x, weight, bias, activation, initial_state,
                                                  seq_idx, cu_seqlens, reverse, return_last_state);
    if (!return_last_state) ctx->mark_non_differentiable({last_state});
    return {y, last_state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(9);
    if (!grads[0].defined() && !grads[1].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    auto [dx, dweight, dbias, dinitial_state] = call_causal_conv1d_bwd(
        if_defined(grads[0]), if_defined(grads[1]), saved[0], saved[1], if_defined(saved[2]),
        ctx->saved_data["activation"].toStringRef(), if_defined(saved[3]), if_defined(saved[4]),
        if_defined(saved[5]), ctx->saved_data["reverse"].toBool());
    out[0] = dx;
    out[1] = dweight;
    if (saved[2].defined()) out[2] = dbias;
    if (saved[3].defined()) out[4] = dinitial_state;
    return out;
  }
};

std::tuple<Tensor, Tensor> causal_conv1d_autograd(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
  refuse_functorch("causal_conv1d");
  if (any_requires_grad({x, weight, bias, initial_state})) {
    const auto outputs =
        CausalConv1dFunction::apply(x, weight, bias, std::string(activation), initial_state,
                                    seq_idx, cu_seqlens, reverse, return_last_state);
    return {outputs[0], outputs[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_causal_conv1d_fwd(x, weight, bias, activation, initial_state, seq_idx, cu_seqlens,
                                reverse, return_last_state);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv1d_bwd_autograd(
    const OptionalTensor& dy, const OptionalTensor& dlast_state, const Tensor& x,
    const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse) {
  std::tuple<Tensor, Tensor, Tensor, Tensor> grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = call_causal_conv1d_bwd(dy, dlast_state, x, weight, bias, activation, initial_state,
                                   seq_idx, cu_seqlens, reverse);
  }
  refuse_double_backward(
      "causal_conv1d",
      {dy.value_or(Tensor()), dlast_state.value_or(Tensor()), x, weight, bias.value_or(Tensor()),
       initial_state.value_or(Tensor())},
      {std::get<0>(grads), std::get<1>(grads), std::get<2>(grads), std::get<3>(grads)});
  return grads;
}

// Activations and the window take the autocast dtype, weight and bias stay as they are.
template <at::DeviceType device, c10::DispatchKey key>
std::tuple<Tensor, Tensor> causal_conv1d_autocast(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return causal_conv1d({at::autocast::cached_cast(type, x, device), weight, bias,
                        std::string(activation),
                        at::autocast::cached_cast(type, initial_state, device), seq_idx, cu_seqlens,
                        reverse, return_last_state});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("causal_conv1d", causal_conv1d_autograd);
  m.impl("_causal_conv1d_bwd", causal_conv1d_bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("causal_conv1d", causal_conv1d_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("causal_conv1d", causal_conv1d_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("causal_conv1d", batching_refusal());
  m.impl("_causal_conv1d_fwd", batching_refusal());
  m.impl("_causal_conv1d_bwd", batching_refusal());
}

}  // namespace aspis::ops
