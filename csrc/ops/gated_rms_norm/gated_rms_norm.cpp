// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/gated_rms_norm/gated_rms_norm.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/check.h"
#include "ops/refusals.h"
#include "ops/rms_norm/rms_norm.h"

namespace aspis::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;

void check_gated_rms_norm(const char* op, const GatedRmsNormArgs& args) {
  check_norm(op, args.x, args.weight, args.eps, args.group_size);
  if (args.z) check_same_shape(op, "z", *args.z, "x", args.x);
  check_dtype(op, "z", args.z, args.x.scalar_type(), "x's dtype");
  check_same_device(op, "z", args.z, "x", args.x);
}

namespace {

Tensor fwd_meta(const Tensor& x, const OptionalTensor& z, const OptionalTensor& weight, double eps,
                OptionalInt group_size, bool norm_before_gate) {
  check_gated_rms_norm("gated_rms_norm", {x, z, weight, eps, group_size, norm_before_gate});
  return allocate_like(x);
}

std::tuple<Tensor, Tensor, Tensor> bwd_meta(const Tensor& dy, const Tensor& x,
                                            const OptionalTensor& z, const OptionalTensor& weight,
                                            double eps, OptionalInt group_size,
                                            bool norm_before_gate, bool need_dweight) {
  check_gated_rms_norm("gated_rms_norm", {x, z, weight, eps, group_size, norm_before_gate});
  check_same_shape("gated_rms_norm", "dy", dy, "x", x);
  const bool dweight = need_dweight && weight;
  return {allocate_like(x), z ? allocate_like(*z) : allocate({0}, dy.scalar_type(), x),
          dweight ? allocate({x.sym_size(-1)}, weight->scalar_type(), x)
                  : allocate({0}, dy.scalar_type(), x)};
}

Tensor gated_rms_norm_forward(const Tensor& x, const OptionalTensor& z,
                              const OptionalTensor& weight, double eps, OptionalInt group_size,
                              bool norm_before_gate) {
  return gated_rms_norm_fwd({x, z, weight, eps, group_size, norm_before_gate});
}

}  // namespace

Tensor gated_rms_norm_fwd(const GatedRmsNormArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_gated_rms_norm_fwd", "")
                             .typed<decltype(fwd_meta)>();
  require_kernel("gated_rms_norm", op, args.x);
  return op.call(args.x, args.z, args.weight, args.eps, args.group_size, args.norm_before_gate);
}

std::tuple<Tensor, Tensor, Tensor> gated_rms_norm_bwd(const Tensor& dy,
                                                      const GatedRmsNormArgs& args,
                                                      bool need_dweight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_gated_rms_norm_bwd", "")
                             .typed<decltype(bwd_meta)>();
  require_kernel("gated_rms_norm", op, args.x);
  return op.call(dy, args.x, args.z, args.weight, args.eps, args.group_size, args.norm_before_gate,
                 need_dweight);
}

Tensor gated_rms_norm(const GatedRmsNormArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::gated_rms_norm", "")
                             .typed<decltype(gated_rms_norm_forward)>();
  return op.call(args.x, args.z, args.weight, args.eps, args.group_size, args.norm_before_gate);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  m.def(
      "gated_rms_norm(Tensor x, Tensor? z=None, Tensor? weight=None, *, float eps=1e-5, "
      "int? group_size=None, bool norm_before_gate=False) -> Tensor");
  m.def(
      "gated_rms_norm_ref(Tensor x, Tensor? z=None, Tensor? weight=None, *, float eps=1e-5, "
      "int? group_size=None, bool norm_before_gate=False) -> Tensor");
  m.def(
      "_gated_rms_norm_fwd(Tensor x, Tensor? z, Tensor? weight, float eps, int? group_size, "
      "bool norm_before_gate) -> Tensor");
  m.def(
      "_gated_rms_norm_bwd(Tensor dy, Tensor x, Tensor? z, Tensor? weight, float eps, "
      "int? group_size, bool norm_before_gate, bool need_dweight) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("gated_rms_norm", gated_rms_norm_forward);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_gated_rms_norm_fwd", fwd_meta);
  m.impl("_gated_rms_norm_bwd", bwd_meta);
}

}  // namespace aspis::ops
