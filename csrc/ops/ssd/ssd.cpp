// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/ssd/ssd.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <string>

#include "core/alloc.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "ops/documents.h"
#include "ops/refusals.h"
#include "ops/ssd/calls.h"
#include "ops/ssd/params.h"

namespace aspis::ops {
namespace {

constexpr const char* kOp = "ssd";

void check_limits(const char* op, const std::optional<double>& dt_min,
                  const std::optional<double>& dt_max) {
  TORCH_CHECK(!dt_min || !dt_max || *dt_min <= *dt_max, op, ": dt_min must not exceed dt_max, got ",
              *dt_min, " and ", *dt_max);
}

void check_skip(const char* op, const at::Tensor& D, const c10::SymInt& h, const c10::SymInt& p) {
  if (D.dim() == 2) {
    check_shape(op, "D", D, {{"h", h}, {"p", p}});
  } else {
    TORCH_CHECK(D.dim() == 1, op, ": D must be (h) or (h, p), got ", shape_string(D));
    check_shape(op, "D", D, {{"h", h}});
  }
}

// What the op and its step have in common; x is (b, l, h, p).
void check_common(const char* op, const at::Tensor& x, const at::Tensor& dt, const at::Tensor& A,
                  const at::Tensor& B, const at::Tensor& C, const OptionalTensor& D,
                  const OptionalTensor& z, const OptionalTensor& dt_bias,
                  const std::optional<double>& dt_min, const std::optional<double>& dt_max) {
  check_dim(op, "x", x, 4, "(b, l, h, p)");
  check_floating(op, "x", x);
  const auto type = x.scalar_type();
  const c10::SymInt b = x.sym_size(0), l = x.sym_size(1), h = x.sym_size(2), p = x.sym_size(3);
  check_shape(op, "dt", dt, {{"b", b}, {"l", l}, {"h", h}});
  check_parameter_dtype(op, "dt", dt, type);
  TORCH_CHECK(!A.is_complex(), op, ": A must be real, got ", c10::toString(A.scalar_type()),
              ". Complex decays are not supported");
  check_shape(op, "A", A, {{"h", h}});
  check_parameter_dtype(op, "A", A, type);
  check_dim(op, "B", B, 4, "(b, l, g, n)");
  const c10::SymInt g = B.sym_size(2), n = B.sym_size(3);
  check_shape(op, "B", B, {{"b", b}, {"l", l}, {"g", g}, {"n", n}});
  check_shape(op, "C", C, {{"b", b}, {"l", l}, {"g", g}, {"n", n}});
  TORCH_CHECK(g >= 1 && h % g == 0, op,
              ": the groups of B and C must divide the heads, got g = ", g, " and h = ", h);
  check_dtype(op, "B", B, type, "x's dtype");
  check_dtype(op, "C", C, type, "x's dtype");
  if (D) check_skip(op, *D, h, p);
  check_parameter_dtype(op, "D", D, type);
  check_shape(op, "z", z, {{"b", b}, {"l", l}, {"h", h}, {"p", p}});
  check_dtype(op, "z", z, type, "x's dtype");
  check_shape(op, "dt_bias", dt_bias, {{"h", h}});
  check_parameter_dtype(op, "dt_bias", dt_bias, type);
  check_limits(op, dt_min, dt_max);
  check_same_device(op, "dt", dt, "x", x);
  check_same_device(op, "A", A, "x", x);
  check_same_device(op, "B", B, "x", x);
  check_same_device(op, "C", C, "x", x);
  check_same_device(op, "D", D, "x", x);
  check_same_device(op, "z", z, "x", x);
  check_same_device(op, "dt_bias", dt_bias, "x", x);
}

}  // namespace

void check_ssd(const SsdArgs& args) {
  check_common(kOp, args.x, args.dt, args.A, args.B, args.C, args.D, args.z, args.dt_bias,
               args.dt_min, args.dt_max);
  check_documents(kOp, args.x, args.seq_idx, args.cu_seqlens);
  if (!args.initial_state) return;
  check_shape(kOp, "initial_state", args.initial_state,
              {{args.cu_seqlens ? "docs" : "b", state_count(args.x, args.cu_seqlens)},
               {"h", args.x.sym_size(2)},
               {"p", args.x.sym_size(3)},
               {"n", args.B.sym_size(3)}});
  check_dtype(kOp, "initial_state", args.initial_state, compute_type(args.x.scalar_type()),
              "states are float32, float64 beside float64");
  check_same_device(kOp, "initial_state", args.initial_state, "x", args.x);
}

namespace {

at::Tensor absent(const SsdArgs& args) {
  return allocate({c10::SymInt(0)}, compute_type(args.x.scalar_type()), args.x);
}

SsdFwdResult ssd_fwd_meta(const SsdArgs& args, bool save_for_backward) {
  check_ssd(args);
  const auto type = compute_type(args.x.scalar_type());
  const c10::SymInt b = args.x.sym_size(0), l = args.x.sym_size(1), h = args.x.sym_size(2),
                    p = args.x.sym_size(3), n = args.B.sym_size(3);
  at::Tensor last_state = absent(args), states = absent(args);
  if (args.return_last_state) {
    last_state = allocate({state_count(args.x, args.cu_seqlens), h, p, n}, type, args.x);
  }
  if (save_for_backward) states = allocate({b, l / kSsdChunk, h, p, n}, type, args.x);
  return {allocate_like(args.x), last_state, states};
}

SsdGrads ssd_bwd_meta(const OptionalTensor&, const OptionalTensor&, const SsdArgs& args,
                      const at::Tensor&) {
  check_ssd(args);
  const auto like = [&](const OptionalTensor& input) {
    return input ? allocate_like(*input) : absent(args);
  };
  const auto parameter_like = [&](const OptionalTensor& input) {
    return input ? allocate(input->sym_sizes(), input->scalar_type(), args.x) : absent(args);
  };
  return {allocate_like(args.x), allocate_like(args.dt),       parameter_like(args.A),
          allocate_like(args.B), allocate_like(args.C),        parameter_like(args.D),
          like(args.z),          parameter_like(args.dt_bias), parameter_like(args.initial_state)};
}

// The public op below autograd: straight to the forward kernel of x's device.
SsdResult ssd_forward(const SsdArgs& args) {
  auto [y, last_state, states] = ssd_fwd(args, false);
  return {y, last_state};
}

}  // namespace

SsdFwdResult ssd_fwd(const SsdArgs& args, bool save_for_backward) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_ssd_fwd", "")
                             .typed<decltype(SpreadFwd<ssd_fwd_meta>::call)>();
  require_kernel(kOp, op, args.x);
  return op.call(args.x, args.dt, args.A, args.B, args.C, args.D, args.z, args.dt_bias,
                 args.dt_softplus, args.dt_min, args.dt_max, args.initial_state, args.seq_idx,
                 args.cu_seqlens, args.reverse, args.return_last_state, save_for_backward);
}

SsdGrads ssd_bwd(const OptionalTensor& dy, const OptionalTensor& dlast_state, const SsdArgs& args,
                 const at::Tensor& states) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_ssd_bwd", "")
                             .typed<decltype(SpreadBwd<ssd_bwd_meta>::call)>();
  require_kernel(kOp, op, args.x);
  auto [dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_state] =
      op.call(dy, dlast_state, args.x, args.dt, args.A, args.B, args.C, args.D, args.z,
              args.dt_bias, args.dt_softplus, args.dt_min, args.dt_max, args.initial_state,
              args.seq_idx, args.cu_seqlens, args.reverse, states);
  return {dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_state};
}

SsdResult ssd(const SsdArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::ssd", "")
                             .typed<decltype(SpreadSsd<ssd_forward>::call)>();
  return op.call(args.x, args.dt, args.A, args.B, args.C, args.D, args.z, args.dt_bias,
                 args.dt_softplus, args.dt_min, args.dt_max, args.initial_state, args.seq_idx,
                 args.cu_seqlens, args.reverse, args.return_last_state);
}

void check_ssd_step(const SsdStepArgs& args) {
  constexpr const char* op = "ssd_step";
  check_common(op, args.x, args.dt, args.A, args.B, args.C, args.D, args.z, args.dt_bias,
               args.dt_min, args.dt_max);
  const c10::SymInt b = args.x.sym_size(0), h = args.x.sym_size(2), p = args.x.sym_size(3),
                    n = args.B.sym_size(3);
  check_dim(op, "state", args.state, 4, "(slots, h, p, n)");
  check_floating(op, "state", args.state);
  if (args.src_slots) {
    check_shape(op, "state", args.state,
                {{"slots", args.state.sym_size(0)}, {"h", h}, {"p", p}, {"n", n}});
  } else {
    check_shape(op, "state", args.state, {{"b", b}, {"h", h}, {"p", p}, {"n", n}});
  }
  check_same_device(op, "state", args.state, "x", args.x);
  check_shape(op, "src_slots", args.src_slots, {{"b", b}});
  check_dtype(op, "src_slots", args.src_slots, at::kInt, "slot numbers");
  check_same_device(op, "src_slots", args.src_slots, "x", args.x);
  check_shape(op, "dst_slots", args.dst_slots, {{"b", b}});
  check_dtype(op, "dst_slots", args.dst_slots, at::kInt, "slot numbers");
  check_same_device(op, "dst_slots", args.dst_slots, "x", args.x);
}

namespace {
at::Tensor ssd_step_meta(const SsdStepArgs& args) {
  check_ssd_step(args);
  return allocate_like(args.x);
}
}  // namespace

at::Tensor ssd_step(const SsdStepArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::ssd_step", "")
                             .typed<decltype(SpreadStep<ssd_step_meta>::call)>();
  require_kernel("ssd_step", op, args.x);
  return op.call(args.state, args.x, args.dt, args.A, args.B, args.C, args.D, args.z, args.dt_bias,
                 args.dt_softplus, args.dt_min, args.dt_max, args.src_slots, args.dst_slots);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  const std::string inputs =
      "(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D=None, *, Tensor? z=None, "
      "Tensor? dt_bias=None, bool dt_softplus=False, float? dt_min=None, float? dt_max=None, "
      "Tensor? initial_state=None, Tensor? seq_idx=None, Tensor? cu_seqlens=None, bool "
      "reverse=False, "
      "bool return_last_state=False) -> (Tensor, Tensor)";
  m.def(("ssd" + inputs).c_str());
  m.def(("ssd_ref" + inputs).c_str());
  m.def(
      "_ssd_fwd(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
      "Tensor? dt_bias, bool dt_softplus, float? dt_min, float? dt_max, Tensor? initial_state, "
      "Tensor? seq_idx, Tensor? cu_seqlens, bool reverse, bool return_last_state, "
      "bool save_for_backward) -> (Tensor, Tensor, Tensor)");
  m.def(
      "_ssd_bwd(Tensor? dy, Tensor? dlast_state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor "
      "C, "
      "Tensor? D, Tensor? z, Tensor? dt_bias, bool dt_softplus, float? dt_min, float? dt_max, "
      "Tensor? initial_state, Tensor? seq_idx, Tensor? cu_seqlens, bool reverse, Tensor states) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  const std::string step_inputs =
      "(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D=None, *, "
      "Tensor? z=None, Tensor? dt_bias=None, bool dt_softplus=False, float? dt_min=None, "
      "float? dt_max=None, Tensor? src_slots=None, Tensor? dst_slots=None) -> Tensor";
  m.def(("ssd_step" + step_inputs).c_str());
  m.def(("ssd_step_ref" + step_inputs).c_str());
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("ssd", SpreadSsd<ssd_forward>::call);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_ssd_fwd", SpreadFwd<ssd_fwd_meta>::call);
  m.impl("_ssd_bwd", SpreadBwd<ssd_bwd_meta>::call);
  m.impl("ssd_step", SpreadStep<ssd_step_meta>::call);
}

}  // namespace aspis::ops
