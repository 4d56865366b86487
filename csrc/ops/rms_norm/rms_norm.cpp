// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/rms_norm/rms_norm.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <cmath>

#include "core/alloc.h"
#include "core/check.h"
#include "ops/refusals.h"

namespace aspis::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;

void check_norm(const char* op, const Tensor& x, const OptionalTensor& weight, double eps,
                const OptionalInt& group_size) {
  TORCH_CHECK(x.dim() >= 1, op, ": x must be (..., d), got ", shape_string(x));
  check_floating(op, "x", x);
  const c10::SymInt d = x.sym_size(-1);
  check_shape(op, "weight", weight, {{"d", d}});
  check_parameter_dtype(op, "weight", weight, x.scalar_type());
  check_same_device(op, "weight", weight, "x", x);
  TORCH_CHECK(std::isfinite(eps) && eps >= 0, op, ": eps must be finite and not negative, got ",
              eps);
  if (group_size) {
    TORCH_CHECK(*group_size >= 1 && d % *group_size == 0, op,
                ": group_size must be at least 1 and divide d=", d, ", got ", *group_size);
  }
}

void check_same_shape(const char* op, const char* arg, const Tensor& tensor, const char* other_arg,
                      const Tensor& other) {
  TORCH_CHECK(tensor.sym_sizes().equals(other.sym_sizes()), op, ": ", arg, " must have ", other_arg,
              "'s shape ", shape_string(other), ", got ", shape_string(tensor));
}

namespace {

Tensor fwd_meta(const Tensor& x, const OptionalTensor& weight, double eps, OptionalInt group_size) {
  check_norm("rms_norm", x, weight, eps, group_size);
  return allocate_like(x);
}

std::tuple<Tensor, Tensor> bwd_meta(const Tensor& dy, const Tensor& x, const OptionalTensor& weight,
                                    double eps, OptionalInt group_size, bool need_dweight) {
  check_norm("rms_norm", x, weight, eps, group_size);
  check_same_shape("rms_norm", "dy", dy, "x", x);
  const bool dweight = need_dweight && weight;
  return {allocate_like(x), dweight ? allocate({x.sym_size(-1)}, weight->scalar_type(), x)
                                    : allocate({0}, dy.scalar_type(), x)};
}

Tensor rms_norm_forward(const Tensor& x, const OptionalTensor& weight, double eps,
                        OptionalInt group_size) {
  return rms_norm_fwd({x, weight, eps, group_size});
}

}  // namespace

Tensor rms_norm_fwd(const RmsNormArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_rms_norm_fwd", "")
                             .typed<decltype(fwd_meta)>();
  require_kernel("rms_norm", op, args.x);
  return op.call(args.x, args.weight, args.eps, args.group_size);
}

std::tuple<Tensor, Tensor> rms_norm_bwd(const Tensor& dy, const RmsNormArgs& args,
                                        bool need_dweight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_rms_norm_bwd", "")
                             .typed<decltype(bwd_meta)>();
  require_kernel("rms_norm", op, args.x);
  return op.call(dy, args.x, args.weight, args.eps, args.group_size, need_dweight);
}

Tensor rms_norm(const RmsNormArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::rms_norm", "")
                             .typed<decltype(rms_norm_forward)>();
  return op.call(args.x, args.weight, args.eps, args.group_size);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  m.def(
      "rms_norm(Tensor x, Tensor? weight=None, *, float eps=1e-5, int? group_size=None) -> Tensor");
  m.def(
      "rms_norm_ref(Tensor x, Tensor? weight=None, *, float eps=1e-5, int? group_size=None) -> "
      "Tensor");
  m.def("_rms_norm_fwd(Tensor x, Tensor? weight, float eps, int? group_size) -> Tensor");
  m.def(
      "_rms_norm_bwd(Tensor dy, Tensor x, Tensor? weight, float eps, int? group_size, "
      "bool need_dweight) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("rms_norm", rms_norm_forward);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_rms_norm_fwd", fwd_meta);
  m.impl("_rms_norm_bwd", bwd_meta);
}

}  // namespace aspis::ops
