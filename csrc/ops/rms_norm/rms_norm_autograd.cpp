// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/refusals.h"
#include "ops/rms_norm/rms_norm.h"

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

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& weight,
                        double eps, OptionalInt group_size) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, weight.value_or(Tensor())});
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["group_size"] = group_size;
    ctx->saved_data["need_dweight"] = weight && weight->requires_grad();
    return rms_norm_fwd({x, weight, eps, group_size});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list out(4);
    if (!grads[0].defined()) return out;
    const auto saved = ctx->get_saved_variables();
    const RmsNormArgs args{saved[0], optional_of(saved[1]), ctx->saved_data["eps"].toDouble(),
                           ctx->saved_data["group_size"].toOptional<int64_t>()};
    const bool need_dweight = ctx->saved_data["need_dweight"].toBool();
    auto [dx, dweight] = rms_norm_bwd(grads[0], args, need_dweight);
    out[0] = dx;
    if (need_dweight) out[1] = dweight;
    return out;
  }
};

Tensor rms_norm_autograd(const Tensor& x, const OptionalTensor& weight, double eps,
                         OptionalInt group_size) {
  refuse_functorch("rms_norm");
  if (any_requires_grad({x, weight})) {
    return RmsNormFunction::apply(x, weight, eps, group_size);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return rms_norm_fwd({x, weight, eps, group_size});
}

std::tuple<Tensor, Tensor> rms_norm_bwd_autograd(const Tensor& dy, const Tensor& x,
                                                 const OptionalTensor& weight, double eps,
                                                 OptionalInt group_size, bool need_dweight) {
  std::tuple<Tensor, Tensor> grads;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    grads = rms_norm_bwd(dy, {x, weight, eps, group_size}, need_dweight);
  }
  refuse_double_backward("rms_norm", {dy, x, weight.value_or(Tensor())},
                         {std::get<0>(grads), std::get<1>(grads)});
  return grads;
}

// x takes the autocast dtype, the weight stays as it is.
template <at::DeviceType device, c10::DispatchKey key>
Tensor rms_norm_autocast(const Tensor& x, const OptionalTensor& weight, double eps,
                         OptionalInt group_size) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return rms_norm({at::autocast::cached_cast(type, x, device), weight, eps, group_size});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("rms_norm", rms_norm_autograd);
  m.impl("_rms_norm_bwd", rms_norm_bwd_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("rms_norm", rms_norm_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("rms_norm", rms_norm_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("rms_norm", batching_refusal());
  m.impl("_rms_norm_fwd", batching_refusal());
  m.impl("_rms_norm_bwd", batching_refusal());
}

}  // namespace aspis::ops
