// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/add_rms_norm/add_rms_norm.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/check.h"
#include "ops/refusals.h"
#include "ops/rms_norm/rms_norm.h"

namespace aspis::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_add_rms_norm(const char* op, const AddRmsNormArgs& args) {
  check_norm(op, args.x, args.weight, args.eps, std::nullopt);
  check_same_shape(op, "residual", args.residual, "x", args.x);
  check_parameter_dtype(op, "residual", args.residual, args.x.scalar_type());
  check_same_device(op, "residual", args.residual, "x", args.x);
}

void check_add_rms_norm_backward(const AddRmsNormBackwardArgs& args) {
  constexpr const char* op = "add_rms_norm";
  check_same_shape(op, "dy", args.dy, "new_residual", args.new_residual);
  if (args.dnew_residual) {
    check_same_shape(op, "dnew_residual", *args.dnew_residual, "new_residual", args.new_residual);
  }
  check_shape(op, "weight", args.weight, {{"d", args.new_residual.sym_size(-1)}});
}

at::ScalarType new_residual_dtype(const Tensor& residual, bool residual_in_fp32) {
  const auto type = residual.scalar_type();
  return residual_in_fp32 && type != at::kDouble ? at::kFloat : type;
}

namespace {

std::tuple<Tensor, Tensor> fwd_meta(const Tensor& x, const Tensor& residual,
                                    const OptionalTensor& weight, double eps,
                                    bool residual_in_fp32) {
  check_add_rms_norm("add_rms_norm", {x, residual, weight, eps, residual_in_fp32});
  return {allocate_like(x),
          allocate_like(residual, new_residual_dtype(residual, residual_in_fp32))};
}

std::tuple<Tensor, Tensor, Tensor> bwd_meta(const Tensor& dy, const OptionalTensor& dnew_residual,
                                            const Tensor& new_residual,
                                            const OptionalTensor& weight, double eps,
                                            at::ScalarType residual_dtype, bool need_dweight) {
  check_add_rms_norm_backward(
      {dy, dnew_residual, new_residual, weight, eps, residual_dtype, need_dweight});
  const bool dx = dy.scalar_type() != residual_dtype, dweight = need_dweight && weight;
  return {dx ? allocate_like(new_residual, dy.scalar_type()) : allocate({0}, dy.scalar_type(), dy),
          allocate_like(new_residual, residual_dtype),
          dweight ? allocate({weight->sym_size(0)}, weight->scalar_type(), dy)
                  : allocate({0}, dy.scalar_type(), dy)};
}

std::tuple<Tensor, Tensor> add_rms_norm_forward(const Tensor& x, const Tensor& residual,
                                                const OptionalTensor& weight, double eps,
                                                bool residual_in_fp32) {
  return add_rms_norm_fwd({x, residual, weight, eps, residual_in_fp32});
}

}  // namespace

std::tuple<Tensor, Tensor> add_rms_norm_fwd(const AddRmsNormArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_add_rms_norm_fwd", "")
                             .typed<decltype(fwd_meta)>();
  require_kernel("add_rms_norm", op, args.x);
  return op.call(args.x, args.residual, args.weight, args.eps, args.residual_in_fp32);
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm_bwd(const AddRmsNormBackwardArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_add_rms_norm_bwd", "")
                             .typed<decltype(bwd_meta)>();
  require_kernel("add_rms_norm", op, args.dy);
  return op.call(args.dy, args.dnew_residual, args.new_residual, args.weight, args.eps,
                 args.residual_dtype, args.need_dweight);
}

std::tuple<Tensor, Tensor> add_rms_norm(const AddRmsNormArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::add_rms_norm", "")
                             .typed<decltype(add_rms_norm_forward)>();
  return op.call(args.x, args.residual, args.weight, args.eps, args.residual_in_fp32);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  m.def(
      "add_rms_norm(Tensor x, Tensor residual, Tensor? weight=None, *, float eps=1e-5, "
      "bool residual_in_fp32=False) -> (Tensor, Tensor)");
  m.def(
      "add_rms_norm_ref(Tensor x, Tensor residual, Tensor? weight=None, *, float eps=1e-5, "
      "bool residual_in_fp32=False) -> (Tensor, Tensor)");
  m.def(
      "_add_rms_norm_fwd(Tensor x, Tensor residual, Tensor? weight, float eps, "
      "bool residual_in_fp32) -> (Tensor, Tensor)");
  m.def(
      "_add_rms_norm_bwd(Tensor dy, Tensor? dnew_residual, Tensor new_residual, Tensor? weight, "
      "float eps, ScalarType residual_dtype, bool need_dweight) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("add_rms_norm", add_rms_norm_forward);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_add_rms_norm_fwd", fwd_meta);
  m.impl("_add_rms_norm_bwd", bwd_meta);
}

}  // namespace aspis::ops
