// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/selective_scan/selective_scan.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "ops/documents.h"
#include "ops/refusals.h"
#include "ops/selective_scan/params.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptTensor = std::optional<Tensor>;

// What forward and step have in common.
void check_inputs(const char* op, const char* time, const Tensor& x, const Tensor& delta,
                  const Tensor& A, const Tensor& B, const Tensor& C, const OptTensor& D,
                  const OptTensor& z, const OptTensor& delta_bias) {
  check_dim(op, "x", x, 3, time[0] == 't' ? "(b, t, d)" : "(b, l, d)");
  check_floating(op, "x", x);
  const auto type = x.scalar_type();
  const Dim b{"b", x.sym_size(0)}, l{time, x.sym_size(1)}, d{"d", x.sym_size(2)};
  check_shape(op, "delta", delta, {b, l, d});
  check_dim(op, "A", A, 2, "(d, n)");
  const Dim n{"n", A.sym_size(1)};
  check_shape(op, "A", A, {d, n});
  TORCH_CHECK(n.size > 0, op, ": A must have n >= 1 states, got ", shape_string(A));
  TORCH_CHECK(
      !A.is_complex(), op, ": A must be real, got ", c10::toString(A.scalar_type()),
      ". Complex states are not supported: use a real A (d, n), with twice the states for a "
      "conjugate pair");
  check_dim(op, "B", B, 4, time[0] == 't' ? "(b, t, g, n)" : "(b, l, g, n)");
  const Dim g{"g", B.sym_size(2)};
  TORCH_CHECK(g.size > 0 && d.size % g.size == 0, op,
              ": the groups of B must divide the channels, got g=", g.size, " for d=", d.size);
  check_shape(op, "B", B, {b, l, g, n});
  check_shape(op, "C", C, {b, l, g, n});
  check_shape(op, "D", D, {d});
  check_shape(op, "z", z, {b, l, d});
  check_shape(op, "delta_bias", delta_bias, {d});
  check_dtype(op, "delta", delta, type, "x's dtype");
  check_dtype(op, "A", A, compute_type(type), "float32, float64 beside float64");
  check_dtype(op, "B", B, type, "x's dtype");
  check_dtype(op, "C", C, type, "x's dtype");
  check_parameter_dtype(op, "D", D, type);
  check_dtype(op, "z", z, type, "x's dtype");
  check_parameter_dtype(op, "delta_bias", delta_bias, type);
  check_same_device(op, "delta", delta, "x", x);
  check_same_device(op, "A", A, "x", x);
  check_same_device(op, "B", B, "x", x);
  check_same_device(op, "C", C, "x", x);
  check_same_device(op, "D", D, "x", x);
  check_same_device(op, "z", z, "x", x);
  check_same_device(op, "delta_bias", delta_bias, "x", x);
}

}  // namespace

void check_selective_scan(const SelectiveScanArgs& args) {
  constexpr const char* op = "selective_scan";
  check_inputs(op, "l", args.x, args.delta, args.A, args.B, args.C, args.D, args.z,
               args.delta_bias);
  check_documents(op, args.x, args.seq_idx, args.cu_seqlens);
  if (args.initial_state) {
    check_shape(op, "initial_state", *args.initial_state,
                {{args.cu_seqlens ? "docs" : "b", state_count(args.x, args.cu_seqlens)},
                 {"d", args.x.sym_size(2)},
                 {"n", args.A.sym_size(1)}});
    check_dtype(op, "initial_state", *args.initial_state, compute_type(args.x.scalar_type()),
                "float32, float64 beside float64");
    check_same_device(op, "initial_state", *args.initial_state, "x", args.x);
  }
}

void check_selective_scan_step(const SelectiveScanStepArgs& args) {
  constexpr const char* op = "selective_scan_step";
  check_inputs(op, "t", args.x, args.delta, args.A, args.B, args.C, args.D, args.z,
               args.delta_bias);
  check_dim(op, "state", args.state, 3, "(slots, d, n)");
  check_floating(op, "state", args.state);
  check_same_device(op, "state", args.state, "x", args.x);
  const bool has_slots = args.src_slots.has_value();
  check_shape(op, "state", args.state,
              {has_slots ? Dim{"slots", args.state.sym_size(0)} : Dim{"b", args.x.sym_size(0)},
               {"d", args.x.sym_size(2)},
               {"n", args.A.sym_size(1)}});
  TORCH_CHECK(
      has_slots || !args.dst_slots, op,
      ": dst_slots needs src_slots beside it: give both, or src_slots alone to write in place");
  for (const auto& [name, slots] :
       {std::pair{"src_slots", args.src_slots}, {"dst_slots", args.dst_slots}}) {
    check_shape(op, name, slots, {{"b", args.x.sym_size(0)}});
    check_dtype(op, name, slots, at::kInt, "slot numbers");
    check_same_device(op, name, slots, "x", args.x);
  }
}

c10::SymInt selective_scan_saved(const Tensor& x) {
  return x.sym_size(1) / kScanSaveEvery;
}

SelectiveScanGradients allocate_gradients(const SelectiveScanArgs& args) {
  const auto like = [&](const OptTensor& input) {
    return input ? allocate_like(*input) : allocate({0}, args.x.scalar_type(), args.x);
  };
  return {allocate_like(args.x), allocate_like(args.delta), allocate_like(args.A),
          allocate_like(args.B), allocate_like(args.C),     like(args.D),
          like(args.z),          like(args.delta_bias),     like(args.initial_state)};
}

namespace {

// y, last_state and states of the right sizes: what Meta returns and the CPU kernel fills.
SelectiveScanForward fwd_meta(const Tensor& x, const Tensor& delta, const Tensor& A,
                              const Tensor& B, const Tensor& C, const OptTensor& D,
                              const OptTensor& z, const OptTensor& delta_bias, bool delta_softplus,
                              const OptTensor& initial_state, const OptTensor& seq_idx,
                              const OptTensor& cu_seqlens, bool reverse, bool return_last_state,
                              bool save_for_backward) {
  check_selective_scan({x, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, seq_idx,
                        cu_seqlens, reverse, return_last_state});
  const auto type = compute_type(x.scalar_type());
  const c10::SymInt d = x.sym_size(2), n = A.sym_size(1);
  const Tensor last = return_last_state ? allocate({state_count(x, cu_seqlens), d, n}, type, x)
                                        : allocate({0}, type, x);
  const Tensor states = save_for_backward
                            ? allocate({x.sym_size(0), selective_scan_saved(x), n, d}, type, x)
                            : allocate({0}, type, x);
  return {allocate_like(x), last, states};
}

SelectiveScanGradients bwd_meta(const OptTensor&, const OptTensor&, const Tensor& x,
                                const Tensor& delta, const Tensor& A, const Tensor& B,
                                const Tensor& C, const OptTensor& D, const OptTensor& z,
                                const OptTensor& delta_bias, bool delta_softplus,
                                const OptTensor& initial_state, const OptTensor& seq_idx,
                                const OptTensor& cu_seqlens, bool reverse, const Tensor&) {
  const SelectiveScanArgs args{
      x,       delta,      A,      B, C, D, z, delta_bias, delta_softplus, initial_state,
      seq_idx, cu_seqlens, reverse};
  check_selective_scan(args);
  return allocate_gradients(args);
}

// The public op below autograd: straight to the forward kernel of x's device.
std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& delta, const Tensor& A,
                                   const Tensor& B, const Tensor& C, const OptTensor& D,
                                   const OptTensor& z, const OptTensor& delta_bias,
                                   bool delta_softplus, const OptTensor& initial_state,
                                   const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                   bool reverse, bool return_last_state) {
  auto [y, last, states] =
      call_selective_scan_fwd({x, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
                               seq_idx, cu_seqlens, reverse, return_last_state},
                              /*save_for_backward=*/false);
  return {y, last};
}

}  // namespace

SelectiveScanForward call_selective_scan_fwd(const SelectiveScanArgs& a, bool save_for_backward) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_selective_scan_fwd", "")
                             .typed<decltype(fwd_meta)>();
  require_kernel("selective_scan", op, a.x);
  return op.call(a.x, a.delta, a.A, a.B, a.C, a.D, a.z, a.delta_bias, a.delta_softplus,
                 a.initial_state, a.seq_idx, a.cu_seqlens, a.reverse, a.return_last_state,
                 save_for_backward);
}

SelectiveScanGradients call_selective_scan_bwd(const OptTensor& dy, const OptTensor& dlast_state,
                                               const SelectiveScanArgs& a, const Tensor& states) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_selective_scan_bwd", "")
                             .typed<decltype(bwd_meta)>();
  return op.call(dy, dlast_state, a.x, a.delta, a.A, a.B, a.C, a.D, a.z, a.delta_bias,
                 a.delta_softplus, a.initial_state, a.seq_idx, a.cu_seqlens, a.reverse, states);
}

std::tuple<Tensor, Tensor> selective_scan(const SelectiveScanArgs& a) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::selective_scan", "")
                             .typed<decltype(forward)>();
  return op.call(a.x, a.delta, a.A, a.B, a.C, a.D, a.z, a.delta_bias, a.delta_softplus,
                 a.initial_state, a.seq_idx, a.cu_seqlens, a.reverse, a.return_last_state);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  const std::string inputs =
      "(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D=None, *, Tensor? z=None, "
      "Tensor? delta_bias=None, bool delta_softplus=False, Tensor? initial_state=None, "
      "Tensor? seq_idx=None, Tensor? cu_seqlens=None, bool reverse=False, "
      "bool return_last_state=False) -> (Tensor, Tensor)";
  m.def(("selective_scan" + inputs).c_str());
  m.def(("selective_scan_ref" + inputs).c_str());
  m.def(
      "_selective_scan_fwd(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
      "Tensor? z, "
      "Tensor? delta_bias, bool delta_softplus, Tensor? initial_state, Tensor? seq_idx, "
      "Tensor? cu_seqlens, bool reverse, bool return_last_state, bool save_for_backward) -> "
      "(Tensor y, Tensor last_state, Tensor states)");
  m.def(
      "_selective_scan_bwd(Tensor? dy, Tensor? dlast_state, Tensor x, Tensor delta, Tensor A, "
      "Tensor B, "
      "Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, bool delta_softplus, Tensor? "
      "initial_state, "
      "Tensor? seq_idx, Tensor? cu_seqlens, bool reverse, Tensor states) -> "
      "(Tensor dx, Tensor ddelta, Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz, "
      "Tensor ddelta_bias, Tensor dinitial_state)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("selective_scan", forward);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_selective_scan_fwd", fwd_meta);
  m.impl("_selective_scan_bwd", bwd_meta);
}

}  // namespace aspis::ops
