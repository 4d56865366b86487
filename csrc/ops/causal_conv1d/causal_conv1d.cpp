// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/causal_conv1d/causal_conv1d.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/check.h"
#include "ops/causal_conv1d/operators.h"
#include "ops/documents.h"
#include "ops/refusals.h"

namespace aspis::ops {

using at::Tensor;

namespace {

constexpr const char* kOp = "causal_conv1d";

Tensor none(at::ScalarType dtype, const Tensor& like) {
  return allocate({0}, dtype, like);
}

}  // namespace

void check_causal_conv1d(const CausalConv1dArgs& args) {
  const Tensor& x = args.x;
  check_dim(kOp, "x", x, 3, "(b, l, d)");
  check_floating(kOp, "x", x);
  check_dim(kOp, "weight", args.weight, 2, "(d, w)");
  const c10::SymInt d = x.sym_size(2), w = args.weight.sym_size(1);
  check_shape(kOp, "weight", args.weight, {{"d", d}, {"w", w}});
  TORCH_CHECK(w >= 1, kOp, ": weight (d, w) needs w >= 1, got ", shape_string(args.weight));
  check_parameter_dtype(kOp, "weight", args.weight, x.scalar_type());
  check_same_device(kOp, "weight", args.weight, "x", x);
  check_shape(kOp, "bias", args.bias, {{"d", d}});
  check_parameter_dtype(kOp, "bias", args.bias, x.scalar_type());
  check_same_device(kOp, "bias", args.bias, "x", x);
  TORCH_CHECK(args.activation == "none" || args.activation == "silu", kOp,
              ": activation must be \"none\" or \"silu\", got \"", args.activation, "\"");
  check_documents(kOp, x, args.seq_idx, args.cu_seqlens);
  const c10::SymInt states = state_count(x, args.cu_seqlens);
  check_shape(kOp, "initial_state", args.initial_state,
              {{args.cu_seqlens ? "docs" : "b", states}, {"d", d}, {"w-1", w - 1}});
  check_dtype(kOp, "initial_state", args.initial_state, x.scalar_type(), "x's dtype");
  check_same_device(kOp, "initial_state", args.initial_state, "x", x);
}

void check_causal_conv1d_grads(const OptionalTensor& dy, const OptionalTensor& dlast_state,
                               const CausalConv1dArgs& args) {
  check_causal_conv1d(args);
  const Tensor& x = args.x;
  check_shape(kOp, "dy", dy, {{"b", x.sym_size(0)}, {"l", x.sym_size(1)}, {"d", x.sym_size(2)}});
  check_dtype(kOp, "dy", dy, x.scalar_type(), "x's dtype");
  check_same_device(kOp, "dy", dy, "x", x);
  check_shape(kOp, "dlast_state", dlast_state,
              {{args.cu_seqlens ? "docs" : "b", state_count(x, args.cu_seqlens)},
               {"d", x.sym_size(2)},
               {"w-1", args.weight.sym_size(1) - 1}});
  check_dtype(kOp, "dlast_state", dlast_state, x.scalar_type(), "x's dtype");
  check_same_device(kOp, "dlast_state", dlast_state, "x", x);
}

namespace {

std::tuple<Tensor, Tensor> causal_conv1d_fwd_meta(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
  check_causal_conv1d({x, weight, bias, std::string(activation), initial_state, seq_idx, cu_seqlens,
                       reverse, return_last_state});
  const c10::SymInt states = state_count(x, cu_seqlens);
  return {allocate_like(x),
          return_last_state
              ? allocate({states, x.sym_size(2), weight.sym_size(1) - 1}, x.scalar_type(), x)
              : none(x.scalar_type(), x)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv1d_bwd_meta(
    const OptionalTensor& dy, const OptionalTensor& dlast_state, const Tensor& x,
    const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse) {
  check_causal_conv1d_grads(dy, dlast_state,
                            {x, weight, bias, std::string(activation), initial_state, seq_idx,
                             cu_seqlens, reverse, false});
  return {allocate_like(x), allocate_like(weight),
          bias ? allocate_like(*bias) : none(weight.scalar_type(), x),
          initial_state ? allocate_like(*initial_state) : none(x.scalar_type(), x)};
}

}  // namespace

std::tuple<Tensor, Tensor> call_causal_conv1d_fwd(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_causal_conv1d_fwd", "")
                             .typed<CausalConv1dSignature>();
  require_kernel(kOp, op, x);
  return op.call(x, weight, bias, activation, initial_state, seq_idx, cu_seqlens, reverse,
                 return_last_state);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> call_causal_conv1d_bwd(
    const OptionalTensor& dy, const OptionalTensor& dlast_state, const Tensor& x,
    const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_causal_conv1d_bwd", "")
                             .typed<CausalConv1dBwdSignature>();
  return op.call(dy, dlast_state, x, weight, bias, activation, initial_state, seq_idx, cu_seqlens,
                 reverse);
}

std::tuple<Tensor, Tensor> causal_conv1d(const CausalConv1dArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::causal_conv1d", "")
                             .typed<CausalConv1dSignature>();
  return op.call(args.x, args.weight, args.bias, args.activation, args.initial_state, args.seq_idx,
                 args.cu_seqlens, args.reverse, args.return_last_state);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  const std::string arguments =
      "(Tensor x, Tensor weight, Tensor? bias=None, *, str activation=\"none\", "
      "Tensor? initial_state=None, Tensor? seq_idx=None, Tensor? cu_seqlens=None, "
      "bool reverse=False, bool return_last_state=False) -> (Tensor, Tensor)";
  m.def(("causal_conv1d" + arguments).c_str());
  m.def(("causal_conv1d_ref" + arguments).c_str());
  // Nothing is saved but the inputs, so there is no flag for saving.
  m.def(
      "_causal_conv1d_fwd(Tensor x, Tensor weight, Tensor? bias, str activation, "
      "Tensor? initial_state, Tensor? seq_idx, Tensor? cu_seqlens, bool reverse, "
      "bool return_last_state) -> (Tensor, Tensor)");
  m.def(
      "_causal_conv1d_bwd(Tensor? dy, Tensor? dlast_state, Tensor x, Tensor weight, Tensor? bias, "
      "str activation, Tensor? initial_state, Tensor? seq_idx, Tensor? cu_seqlens, bool reverse) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("causal_conv1d", call_causal_conv1d_fwd);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_causal_conv1d_fwd", causal_conv1d_fwd_meta);
  m.impl("_causal_conv1d_bwd", causal_conv1d_bwd_meta);
}

}  // namespace aspis::ops
