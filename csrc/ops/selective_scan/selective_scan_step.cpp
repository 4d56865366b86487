// Decode step: schema, Meta, refusals, autocast policy, dispatcher calls.
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "ops/refusals.h"
#include "ops/selective_scan/selective_scan.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptTensor = std::optional<Tensor>;

Tensor step_meta(Tensor& state, const Tensor& x, const Tensor& delta, const Tensor& A,
                 const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                 const OptTensor& delta_bias, bool delta_softplus, const OptTensor& src_slots,
                 const OptTensor& dst_slots) {
  check_selective_scan_step(
      {state, x, delta, A, B, C, D, z, delta_bias, delta_softplus, src_slots, dst_slots});
  return allocate_like(x);
}

const auto& step_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::selective_scan_step", "")
                             .typed<decltype(step_meta)>();
  return op;
}

Tensor step_autograd(Tensor& state, const Tensor& x, const Tensor& delta, const Tensor& A,
                     const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                     const OptTensor& delta_bias, bool delta_softplus, const OptTensor& src_slots,
                     const OptTensor& dst_slots) {
  refuse_functorch("selective_scan_step");
  refuse_gradient("selective_scan_step", {state, x, delta, A, B, C, D, z, delta_bias});
  at::AutoDispatchBelowAutograd below;
  return step_op().call(state, x, delta, A, B, C, D, z, delta_bias, delta_softplus, src_slots,
                        dst_slots);
}

// The state changes in place: a graph that saved it must notice. (Torch's ready-made fallback
// counts only tensors that an op returns.)
Tensor step_in_place(Tensor& state, const Tensor& x, const Tensor& delta, const Tensor& A,
                     const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                     const OptTensor& delta_bias, bool delta_softplus, const OptTensor& src_slots,
                     const OptTensor& dst_slots) {
  Tensor y;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    y = step_op().call(state, x, delta, A, B, C, D, z, delta_bias, delta_softplus, src_slots,
                       dst_slots);
  }
  if (!state.is_inference()) torch::autograd::impl::bump_version(state);
  return y;
}

// As the scan: activations take the autocast dtype, A, D and delta_bias float32; the state stays.
template <at::DeviceType device, c10::DispatchKey key>
Tensor step_autocast(Tensor& state, const Tensor& x, const Tensor& delta, const Tensor& A,
                     const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                     const OptTensor& delta_bias, bool delta_softplus, const OptTensor& src_slots,
                     const OptTensor& dst_slots) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto low = [&](const auto& t) { return at::autocast::cached_cast(type, t, device); };
  const auto full = [&](const auto& t) { return at::autocast::cached_cast(at::kFloat, t, device); };
  return step_op().call(state, low(x), low(delta), full(A), low(B), low(C), full(D), low(z),
                        full(delta_bias), delta_softplus, src_slots, dst_slots);
}

}  // namespace

Tensor selective_scan_step(const SelectiveScanStepArgs& a) {
  require_kernel("selective_scan_step", step_op(), a.x);
  Tensor state = a.state;
  return step_op().call(state, a.x, a.delta, a.A, a.B, a.C, a.D, a.z, a.delta_bias,
                        a.delta_softplus, a.src_slots, a.dst_slots);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  const std::string inputs =
      "(Tensor(a!) state, Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, *, "
      "Tensor? z=None, Tensor? delta_bias=None, bool delta_softplus=False, Tensor? src_slots=None, "
      "Tensor? dst_slots=None) -> Tensor";
  m.def(("selective_scan_step" + inputs).c_str());
  m.def(("selective_scan_step_ref" + inputs).c_str());
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("selective_scan_step", step_meta);
}
TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("selective_scan_step", step_autograd);
}
TORCH_LIBRARY_IMPL(aspis, ADInplaceOrView, m) {
  m.impl("selective_scan_step", step_in_place);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("selective_scan_step", step_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("selective_scan_step", step_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("selective_scan_step", batching_refusal());
}

}  // namespace aspis::ops
