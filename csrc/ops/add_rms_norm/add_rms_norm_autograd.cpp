// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/refusals.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;

OptionalTensor optional_of(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

class AddRmsNormFunction : public torch::autograd::Function<AddRmsNormFunction> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& residual,
                               const OptionalTensor& weight, double eps, bool residual_in_fp32) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, new_residual] = add_rms_norm_fwd({x, residual, weight, eps, residual_in_fp32});
    ctx->save_for_backward({new_residual, weight.value_or(Tensor())});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["need_dweight"] = weight && weight->requires_grad();
    ctx->saved_data["x_dtype"] = x.scalar_type();
    ctx->saved_data["residual_dtype"] = residual.scalar_type();
    return {y, new_residual};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(5);
    const auto x_dtype = ctx->saved_data["x_dtype"].toScalarType();
    const auto residual_dtype = ctx->saved_data["residual_dtype"].toScalarType();
    if (!grads[0].defined()) {  // y is not used: the sum's gradient passes through
      if (!grads[1].defined()) return out;
      out[0] = grads[1].to(x_dtype);
      out[1] = grads[1].to(residual_dtype);
      return out;
    }
    const auto saved = ctx->get_saved_variables();
    const bool need_dweight = ctx->saved_data["need_dweight"].toBool();
    auto [dx, dresidual, dweight] =
        add_rms_norm_bwd({grads[0], optional_of(grads[1]), saved[0], optional_of(saved[1]),
                          ctx->saved_data["eps"].toDouble(), residual_dtype, need_dweight});
    out[0] = x_dtype == residual_dtype ? dresidual : dx;
    out[1] = dresidual;
    if (need_dweight) out[2] = dweight;
    return out;
  }
};

std::tuple<Tensor, Tensor> add_rms_norm_autograd(const Tensor& x, const Tensor& residual,
                                                 const OptionalTensor& weight, double eps,
                                                 bool residual_in_fp32) {
  refuse_functorch("add_rms_norm");
  if (any_requires_grad({x, residual, weight})) {
    const auto out = AddRmsNormFunction::apply(x, residual, weight, eps, residual_in_fp32);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return add_rms_norm_fwd({x, residual, weight, eps, residual_in_fp32});
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm_bwd_autograd(
    const Tensor& dy, const OptionalTensor& dnew_residual, const Tensor& new_residual,
    const OptionalTensor& weight, double eps, at::ScalarType residual_dtype, bool need_dweight) {
  std::tuple<Tensor, Tensor, Tensor> grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = add_rms_norm_bwd(
        {dy, dnew_residual, new_residual, weight, eps, residual_dtype, need_dweight});
  }
  refuse_double_backward(
      "add_rms_norm",
      {dy, dnew_residual.value_or(Tensor()), new_residual, weight.value_or(Tensor())},
      {std::get<0>(grads), std::get<1>(grads), std::get<2>(grads)});
  return grads;
}

// x takes the autocast dtype. The residual stream keeps its own, unless that is a half type beside
// x: then the two must agree.
template <at::DeviceType device, c10::DispatchKey key>
std::tuple<Tensor, Tensor> add_rms_norm_autocast(const Tensor& x, const Tensor& residual,
                                                 const OptionalTensor& weight, double eps,
                                                 bool residual_in_fp32) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  const bool keep = residual.scalar_type() == at::kFloat;
  return add_rms_norm({at::autocast::cached_cast(type, x, device),
                       keep ? residual : at::autocast::cached_cast(type, residual, device), weight,
                       eps, residual_in_fp32});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("add_rms_norm", add_rms_norm_autograd);
  m.impl("_add_rms_norm_bwd", add_rms_norm_bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("add_rms_norm", add_rms_norm_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("add_rms_norm", add_rms_norm_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("add_rms_norm", batching_refusal());
  m.impl("_add_rms_norm_fwd", batching_refusal());
  m.impl("_add_rms_norm_bwd", batching_refusal());
}

}  // namespace aspis::ops
