// Autograd, refusal of second derivatives and of torch.func, autocast policy.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

#include "ops/refusals.h"
#include "ops/ssd/calls.h"
#include "ops/ssd/ssd.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor or_undefined(const OptionalTensor& tensor) {
  return tensor ? *tensor : Tensor();
}
OptionalTensor or_absent(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

class SsdFunction : public torch::autograd::Function<SsdFunction> {
 public:
  static constexpr bool is_traceable = true;

  // The differentiable inputs stand apart, so that autograd sees them; `args` holds all of them.
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& dt,
                               const Tensor& A, const Tensor& B, const Tensor& C,
                               const OptionalTensor& D, const OptionalTensor& z,
                               const OptionalTensor& dt_bias, const OptionalTensor& initial_state,
                               const SsdArgs& args) {
    ctx->set_materialize_grads(false);
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, last_state, states] = ssd_fwd(args, true);
    ctx->save_for_backward({x, dt, A, B, C, or_undefined(D), or_undefined(z), or_undefined(dt_bias),
                            or_undefined(initial_state), or_undefined(args.seq_idx),
                            or_undefined(args.cu_seqlens), states});
    ctx->saved_data["dt_softplus"] = args.dt_softplus;
    ctx->saved_data["dt_min"] = args.dt_min;
    ctx->saved_data["dt_max"] = args.dt_max;
    ctx->saved_data["reverse"] = args.reverse;
    if (!args.return_last_state) ctx->mark_non_differentiable({last_state});
    return {y, last_state};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined() && !grads[1].defined()) return variable_list(10);
    const auto saved = ctx->get_saved_variables();
    SsdArgs args;
    args.x = saved[0];
    args.dt = saved[1];
    args.A = saved[2];
    args.B = saved[3];
    args.C = saved[4];
    args.D = or_absent(saved[5]);
    args.z = or_absent(saved[6]);
    args.dt_bias = or_absent(saved[7]);
    args.initial_state = or_absent(saved[8]);
    args.seq_idx = or_absent(saved[9]);
    args.cu_seqlens = or_absent(saved[10]);
    args.dt_softplus = ctx->saved_data["dt_softplus"].toBool();
    args.dt_min = ctx->saved_data["dt_min"].toOptional<double>();
    args.dt_max = ctx->saved_data["dt_max"].toOptional<double>();
    args.reverse = ctx->saved_data["reverse"].toBool();
    SsdGrads g = ssd_bwd(or_absent(grads[0]), or_absent(grads[1]), args, saved[11]);
    const auto if_given = [](const OptionalTensor& input, const Tensor& grad) {
      return input ? grad : Tensor();
    };
    return {g.dx,
            g.ddt,
            g.dA,
            g.dB,
            g.dC,
            if_given(args.D, g.dD),
            if_given(args.z, g.dz),
            if_given(args.dt_bias, g.ddt_bias),
            if_given(args.initial_state, g.dinitial_state),
            Tensor()};
  }
};

SsdResult ssd_autograd(const SsdArgs& args) {
  refuse_functorch("ssd");
  if (any_requires_grad({args.x, args.dt, args.A, args.B, args.C, args.D, args.z, args.dt_bias,
                         args.initial_state})) {
    const auto out = SsdFunction::apply(args.x, args.dt, args.A, args.B, args.C, args.D, args.z,
                                        args.dt_bias, args.initial_state, args);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  auto [y, last_state, states] = ssd_fwd(args, false);
  return {y, last_state};
}

SsdGrads ssd_bwd_autograd(const OptionalTensor& dy, const OptionalTensor& dlast_state,
                          const SsdArgs& args, const Tensor& states) {
  SsdGrads g;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    g = ssd_bwd(dy, dlast_state, args, states);
  }
  variable_list inputs = {args.x, args.dt, args.A, args.B, args.C};
  for (const OptionalTensor& tensor :
       {dy, dlast_state, args.D, args.z, args.dt_bias, args.initial_state}) {
    if (tensor && tensor->defined()) inputs.push_back(*tensor);
  }
  refuse_double_backward("ssd", inputs,
                         {g.dx, g.ddt, g.dA, g.dB, g.dC, g.dD, g.dz, g.ddt_bias, g.dinitial_state});
  return g;
}

Tensor ssd_step_autograd(const SsdStepArgs& args) {
  refuse_functorch("ssd_step");
  refuse_gradient("ssd_step", {args.state, args.x, args.dt, args.A, args.B, args.C, args.D, args.z,
                               args.dt_bias});
  at::AutoDispatchBelowAutograd below;
  return ssd_step(args);
}

// The state changes in place: a graph that saved it must notice. (Torch's ready-made fallback
// counts only tensors that an op returns.)
Tensor ssd_step_in_place(const SsdStepArgs& args) {
  Tensor y;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    y = ssd_step(args);
  }
  if (!args.state.is_inference()) torch::autograd::impl::bump_version(args.state);
  return y;
}

// Activations take the autocast dtype; parameters and states stay as they are.
template <at::DeviceType device, c10::DispatchKey key>
SsdResult ssd_autocast(const SsdArgs& args) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const Tensor& tensor) {
    return at::autocast::cached_cast(type, tensor, device);
  };
  SsdArgs out = args;
  out.x = cast(args.x);
  out.dt = cast(args.dt);
  out.B = cast(args.B);
  out.C = cast(args.C);
  if (args.z) out.z = cast(*args.z);
  return ssd(out);
}

template <at::DeviceType device, c10::DispatchKey key>
Tensor ssd_step_autocast(const SsdStepArgs& args) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const Tensor& tensor) {
    return at::autocast::cached_cast(type, tensor, device);
  };
  SsdStepArgs out = args;
  out.x = cast(args.x);
  out.dt = cast(args.dt);
  out.B = cast(args.B);
  out.C = cast(args.C);
  if (args.z) out.z = cast(*args.z);
  return ssd_step(out);
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("ssd", SpreadSsd<ssd_autograd>::call);
  m.impl("_ssd_bwd", SpreadBwd<ssd_bwd_autograd>::call);
  m.impl("ssd_step", SpreadStep<ssd_step_autograd>::call);
}
TORCH_LIBRARY_IMPL(aspis, ADInplaceOrView, m) {
  m.impl("ssd_step", SpreadStep<ssd_step_in_place>::call);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("ssd", SpreadSsd<ssd_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>>::call);
  m.impl("ssd_step", SpreadStep<ssd_step_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>>::call);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("ssd", SpreadSsd<ssd_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>>::call);
  m.impl("ssd_step",
         SpreadStep<ssd_step_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>>::call);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  for (const char* op : {"ssd", "_ssd_fwd", "_ssd_bwd", "ssd_step"}) m.impl(op, batching_refusal());
}

}  // namespace aspis::ops
