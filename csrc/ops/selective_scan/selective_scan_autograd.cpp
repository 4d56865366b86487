// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/refusals.h"
#include "ops/selective_scan/selective_scan.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

OptTensor optional_of(const Tensor& tensor) {
  return tensor.defined() ? OptTensor(tensor) : std::nullopt;
}

class SelectiveScanFunction : public torch::autograd::Function<SelectiveScanFunction> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& delta,
                               const Tensor& A, const Tensor& B, const Tensor& C,
                               const OptTensor& D, const OptTensor& z, const OptTensor& delta_bias,
                               bool delta_softplus, const OptTensor& initial_state,
                               const OptTensor& seq_idx, const OptTensor& cu_seqlens, bool reverse,
                               bool return_last_state) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, last_state, states] =
        call_selective_scan_fwd({x, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
                                 seq_idx, cu_seqlens, reverse, return_last_state},
                                /*save_for_backward=*/true);
    ctx->save_for_backward({x, delta, A, B, C, D.value_or(Tensor()), z.value_or(Tensor()),
                            delta_bias.value_or(Tensor()), initial_state.value_or(Tensor()),
                            seq_idx.value_or(Tensor()), cu_seqlens.value_or(Tensor()), states});
    ctx->saved_data["delta_softplus"] = delta_softplus;
    ctx->saved_data["reverse"] = reverse;
    if (!return_last_state) ctx->mark_non_differentiable({last_state});
    return {y, last_state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(14);
    if (!grads[0].defined() && !grads[1].defined()) return out;
    const auto s = ctx->get_saved_variables();
    const SelectiveScanArgs args{s[0],
                                 s[1],
                                 s[2],
                                 s[3],
                                 s[4],
                                 optional_of(s[5]),
                                 optional_of(s[6]),
                                 optional_of(s[7]),
                                 ctx->saved_data["delta_softplus"].toBool(),
                                 optional_of(s[8]),
                                 optional_of(s[9]),
                                 optional_of(s[10]),
                                 ctx->saved_data["reverse"].toBool()};
    auto [dx, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial] =
        call_selective_scan_bwd(optional_of(grads[0]), optional_of(grads[1]), args, s[11]);
    out[0] = dx, out[1] = ddelta, out[2] = dA, out[3] = dB, out[4] = dC;
    if (args.D) out[5] = dD;
    if (args.z) out[6] = dz;
    if (args.delta_bias) out[7] = ddelta_bias;
    if (args.initial_state) out[9] = dinitial;
    return out;
  }
};

std::tuple<Tensor, Tensor> scan_autograd(const Tensor& x, const Tensor& delta, const Tensor& A,
                                         const Tensor& B, const Tensor& C, const OptTensor& D,
                                         const OptTensor& z, const OptTensor& delta_bias,
                                         bool delta_softplus, const OptTensor& initial_state,
                                         const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                         bool reverse, bool return_last_state) {
  refuse_functorch("selective_scan");
  if (any_requires_grad({x, delta, A, B, C, D, z, delta_bias, initial_state})) {
    const auto out = SelectiveScanFunction::apply(x, delta, A, B, C, D, z, delta_bias,
                                                  delta_softplus, initial_state, seq_idx,
                                                  cu_seqlens, reverse, return_last_state);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  auto [y, last_state, states] =
      call_selective_scan_fwd({x, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
                               seq_idx, cu_seqlens, reverse, return_last_state},
                              /*save_for_backward=*/false);
  return {y, last_state};
}

SelectiveScanGradients bwd_autograd(const OptTensor& dy, const OptTensor& dlast_state,
                                    const Tensor& x, const Tensor& delta, const Tensor& A,
                                    const Tensor& B, const Tensor& C, const OptTensor& D,
                                    const OptTensor& z, const OptTensor& delta_bias,
                                    bool delta_softplus, const OptTensor& initial_state,
                                    const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                    bool reverse, const Tensor& states) {
  SelectiveScanGradients grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = call_selective_scan_bwd(dy, dlast_state,
                                    {x, delta, A, B, C, D, z, delta_bias, delta_softplus,
                                     initial_state, seq_idx, cu_seqlens, reverse},
                                    states);
  }
  const auto list = [](const auto&... tensors) { return std::vector<Tensor>{tensors...}; };
  const Tensor none;
  refuse_double_backward(
      "selective_scan",
      {dy.value_or(none), dlast_state.value_or(none), x, delta, A, B, C, D.value_or(none),
       z.value_or(none), delta_bias.value_or(none), initial_state.value_or(none)},
      std::apply(list, grads));
  return grads;
}

// Activations take the autocast dtype; A, D, delta_bias and states stay float32.
template <at::DeviceType device, c10::DispatchKey key>
std::tuple<Tensor, Tensor> scan_autocast(const Tensor& x, const Tensor& delta, const Tensor& A,
                                         const Tensor& B, const Tensor& C, const OptTensor& D,
                                         const OptTensor& z, const OptTensor& delta_bias,
                                         bool delta_softplus, const OptTensor& initial_state,
                                         const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                         bool reverse, bool return_last_state) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto low = [&](const auto& tensor) {
    return at::autocast::cached_cast(type, tensor, device);
  };
  const auto full = [&](const auto& tensor) {
    return at::autocast::cached_cast(at::kFloat, tensor, device);
  };
  return selective_scan({low(x), low(delta), full(A), low(B), low(C), full(D), low(z),
                         full(delta_bias), delta_softplus, full(initial_state), seq_idx, cu_seqlens,
                         reverse, return_last_state});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("selective_scan", scan_autograd);
  m.impl("_selective_scan_bwd", bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("selective_scan", scan_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("selective_scan", scan_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("selective_scan", batching_refusal());
  m.impl("_selective_scan_fwd", batching_refusal());
  m.impl("_selective_scan_bwd", batching_refusal());
}

}  // namespace aspis::ops
