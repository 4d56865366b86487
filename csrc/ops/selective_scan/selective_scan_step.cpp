// Decode step: schema, Meta, refusals, dispatcher calls.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
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
  m.impl("selective_scan_step", torch::autograd::autogradNotImplementedInplaceOrViewFallback());
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("selective_scan_step", batching_refusal());
}

}  // namespace aspis::ops
