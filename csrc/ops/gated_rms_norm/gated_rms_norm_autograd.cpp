// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/gated_rms_norm/gated_rms_norm.h"
#include "ops/refusals.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;

OptionalTensor optional_of(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

class GatedRmsNormFunction : public torch::autograd::Function<GatedRmsNormFunction> {
 public:
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& z,
                        const OptionalTensor& weight, double eps, OptionalInt group_size,
                        bool norm_before_gate) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, z.value_or(Tensor()), weight.value_or(Tensor())});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["group_size"] = group_size;
    ctx->saved_data["norm_before_gate"] = norm_before_gate;
    ctx->saved_data["need_dweight"] = weight && weight->requires_grad();
    return gated_rms_norm_fwd({x, z, weight, eps, group_size, norm_before_gate});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(6);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const GatedRmsNormArgs args{saved[0],
                                optional_of(saved[1]),
                                optional_of(saved[2]),
                                ctx->saved_data["eps"].toDouble(),
                                ctx->saved_data["group_size"].toOptional<int64_t>(),
                                ctx->saved_data["norm_before_gate"].toBool()};
    const bool need_dweight = ctx->saved_data["need_dweight"].toBool();
    auto [dx, dz, dweight] = gated_rms_norm_bwd(grads[0], args, need_dweight);
    out[0] = dx;
    if (args.z) out[1] = dz;
    if (need_dweight) out[2] = dweight;
    return out;
  }
};

Tensor gated_rms_norm_autograd(const Tensor& x, const OptionalTensor& z,
                               const OptionalTensor& weight, double eps, OptionalInt group_size,
                               bool norm_before_gate) {
  refuse_functorch("gated_rms_norm");
  if (any_requires_grad({x, z, weight})) {
    return GatedRmsNormFunction::apply(x, z, weight, eps, group_size, norm_before_gate);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return gated_rms_norm_fwd({x, z, weight, eps, group_size, norm_before_gate});
}

std::tuple<Tensor, Tensor, Tensor> gated_rms_norm_bwd_autograd(
    const Tensor& dy, const Tensor& x, const OptionalTensor& z, const OptionalTensor& weight,
    double eps, OptionalInt group_size, bool norm_before_gate, bool need_dweight) {
  std::tuple<Tensor, Tensor, Tensor> grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = gated_rms_norm_bwd(dy, {x, z, weight, eps, group_size, norm_before_gate}, need_dweight);
  }
  refuse_double_backward("gated_rms_norm", {dy, x, z.value_or(Tensor()), weight.value_or(Tensor())},
                         {std::get<0>(grads), std::get<1>(grads), std::get<2>(grads)});
  return grads;
}

// x and z take the autocast dtype, the weight stays as it is.
template <at::DeviceType device, c10::DispatchKey key>
Tensor gated_rms_norm_autocast(const Tensor& x, const OptionalTensor& z,
                               const OptionalTensor& weight, double eps, OptionalInt group_size,
                               bool norm_before_gate) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return gated_rms_norm({at::autocast::cached_cast(type, x, device),
                         at::autocast::cached_cast(type, z, device), weight, eps, group_size,
                         norm_before_gate});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("gated_rms_norm", gated_rms_norm_autograd);
  m.impl("_gated_rms_norm_bwd", gated_rms_norm_bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("gated_rms_norm", gated_rms_norm_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("gated_rms_norm", gated_rms_norm_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("gated_rms_norm", batching_refusal());
  m.impl("_gated_rms_norm_fwd", batching_refusal());
  m.impl("_gated_rms_norm_bwd", batching_refusal());
}

}  // namespace aspis::ops
