// Schemas, shared checks, Meta kernels and the typed calls into the dispatcher.
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <cmath>

#include "core/alloc.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "ops/refusals.h"

namespace aspis::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_linear_cross_entropy(const char* op, const LinearCrossEntropyArgs& args) {
  check_dim(op, "hidden", args.hidden, 2, "(t, d)");
  check_floating(op, "hidden", args.hidden);
  check_dim(op, "weight", args.weight, 2, "(v, d)");
  check_shape(op, "weight", args.weight,
              {{"v", args.weight.sym_size(0)}, {"d", args.hidden.sym_size(1)}});
  TORCH_CHECK(args.weight.sym_size(0) >= 1, op,
              ": weight must have at least one row (v >= 1), got ", shape_string(args.weight));
  check_dtype(op, "weight", args.weight, args.hidden.scalar_type(), "hidden's dtype");
  check_same_device(op, "weight", args.weight, "hidden", args.hidden);
  const Dim tokens{"t", args.hidden.sym_size(0)};
  check_shape(op, "targets", args.targets, {tokens});
  check_dtype(op, "targets", args.targets, at::kLong, "token ids");
  check_same_device(op, "targets", args.targets, "hidden", args.hidden);
  check_shape(op, "token_weights", args.token_weights, {tokens});
  check_dtype(op, "token_weights", args.token_weights, at::kFloat, "one weight per token");
  check_same_device(op, "token_weights", args.token_weights, "hidden", args.hidden);
  TORCH_CHECK(args.label_smoothing >= 0 && args.label_smoothing <= 1, op,
              ": label_smoothing must be in [0, 1], got ", args.label_smoothing);
  TORCH_CHECK(std::isfinite(args.z_loss) && args.z_loss >= 0, op,
              ": z_loss must be finite and not negative, got ", args.z_loss);
  TORCH_CHECK(std::isfinite(args.logit_scale), op, ": logit_scale must be finite, got ",
              args.logit_scale);
}

void check_linear_cross_entropy_backward(const Tensor& dloss, const Tensor& hidden,
                                         const Tensor& weight, const Tensor& dhidden,
                                         const Tensor& dweight) {
  constexpr const char* op = "linear_cross_entropy";
  check_shape(op, "dloss", dloss, {});
  if (dhidden.dim() != 1) {
    check_shape(op, "dhidden", dhidden, {{"t", hidden.sym_size(0)}, {"d", hidden.sym_size(1)}});
  }
  if (dweight.dim() != 1) {
    check_shape(op, "dweight", dweight, {{"v", weight.sym_size(0)}, {"d", weight.sym_size(1)}});
  }
}

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> fwd_meta(const Tensor& hidden, const Tensor& weight,
                                                    const Tensor& targets,
                                                    const OptionalTensor& token_weights,
                                                    int64_t ignore_index, double label_smoothing,
                                                    double z_loss, double logit_scale,
                                                    bool need_dhidden, bool need_dweight) {
  check_linear_cross_entropy(
      "linear_cross_entropy",
      {hidden, weight, targets, token_weights, ignore_index, label_smoothing, z_loss, logit_scale});
  const auto type = compute_type(hidden.scalar_type());
  return {allocate({}, type, hidden), allocate({}, at::kLong, hidden),
          need_dhidden ? allocate_like(hidden) : allocate({0}, hidden.scalar_type(), hidden),
          need_dweight ? allocate_like(weight, type) : allocate({0}, type, hidden)};
}

std::tuple<Tensor, Tensor> bwd_meta(const Tensor& dloss, const Tensor& hidden, const Tensor& weight,
                                    const Tensor& dhidden, const Tensor& dweight) {
  check_linear_cross_entropy_backward(dloss, hidden, weight, dhidden, dweight);
  return {allocate_like(dhidden), allocate_like(dweight, weight.scalar_type())};
}

std::tuple<Tensor, Tensor> linear_cross_entropy_forward(const Tensor& hidden, const Tensor& weight,
                                                        const Tensor& targets,
                                                        const OptionalTensor& token_weights,
                                                        int64_t ignore_index,
                                                        double label_smoothing, double z_loss,
                                                        double logit_scale) {
  auto [loss_sum, num_valid, dhidden, dweight] = linear_cross_entropy_fwd(
      {hidden, weight, targets, token_weights, ignore_index, label_smoothing, z_loss, logit_scale},
      false, false);
  return {loss_sum, num_valid};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_fwd(
    const LinearCrossEntropyArgs& args, bool need_dhidden, bool need_dweight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_linear_cross_entropy_fwd", "")
                             .typed<decltype(fwd_meta)>();
  require_kernel("linear_cross_entropy", op, args.hidden);
  return op.call(args.hidden, args.weight, args.targets, args.token_weights, args.ignore_index,
                 args.label_smoothing, args.z_loss, args.logit_scale, need_dhidden, need_dweight);
}

std::tuple<Tensor, Tensor> linear_cross_entropy_bwd(const Tensor& dloss, const Tensor& hidden,
                                                    const Tensor& weight, const Tensor& dhidden,
                                                    const Tensor& dweight) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::_linear_cross_entropy_bwd", "")
                             .typed<decltype(bwd_meta)>();
  require_kernel("linear_cross_entropy", op, hidden);
  return op.call(dloss, hidden, weight, dhidden, dweight);
}

std::tuple<Tensor, Tensor> linear_cross_entropy(const LinearCrossEntropyArgs& args) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::linear_cross_entropy", "")
                             .typed<decltype(linear_cross_entropy_forward)>();
  return op.call(args.hidden, args.weight, args.targets, args.token_weights, args.ignore_index,
                 args.label_smoothing, args.z_loss, args.logit_scale);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, "
      "Tensor? token_weights=None, *, int ignore_index=-100, float label_smoothing=0.0, "
      "float z_loss=0.0, float logit_scale=1.0) -> (Tensor, Tensor)");
  m.def(
      "linear_cross_entropy_ref(Tensor hidden, Tensor weight, Tensor targets, "
      "Tensor? token_weights=None, *, int ignore_index=-100, float label_smoothing=0.0, "
      "float z_loss=0.0, float logit_scale=1.0) -> (Tensor, Tensor)");
  m.def(
      "_linear_cross_entropy_fwd(Tensor hidden, Tensor weight, Tensor targets, "
      "Tensor? token_weights, int ignore_index, float label_smoothing, float z_loss, "
      "float logit_scale, bool need_dhidden, bool need_dweight) -> (Tensor, Tensor, Tensor, "
      "Tensor)");
  m.def(
      "_linear_cross_entropy_bwd(Tensor dloss, Tensor hidden, Tensor weight, Tensor dhidden, "
      "Tensor dweight) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(aspis, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy", linear_cross_entropy_forward);
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("_linear_cross_entropy_fwd", fwd_meta);
  m.impl("_linear_cross_entropy_bwd", bwd_meta);
}

}  // namespace aspis::ops
