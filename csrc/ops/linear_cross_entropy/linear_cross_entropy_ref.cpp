// Slow and obvious: ATen calls only, any device, differentiable by autograd itself. Holds all
// logits.
#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace aspis::ops {

using at::Tensor;

namespace {

Tensor nll_ref(const LinearCrossEntropyArgs& args) {
  const auto type = compute_type(args.hidden.scalar_type());
  const Tensor logits =  // (t, v)
      args.logit_scale * at::matmul(args.hidden.to(type), args.weight.to(type).t());
  const Tensor lse = logits.logsumexp(-1);  // (t)
  const Tensor valid = args.targets.ne(args.ignore_index);
  const Tensor safe = at::where(valid, args.targets, at::zeros_like(args.targets));
  const Tensor target_logit = logits.gather(1, safe.unsqueeze(1)).squeeze(1);
  const double s = args.label_smoothing;
  const Tensor nll =
      lse - (1 - s) * target_logit - s * logits.mean(-1) + args.z_loss * lse.square();
  return at::where(valid, nll, at::zeros_like(nll));
}

}  // namespace

std::tuple<Tensor, Tensor> linear_cross_entropy_ref(const LinearCrossEntropyArgs& args) {
  check_linear_cross_entropy("linear_cross_entropy_ref", args);
  Tensor nll = nll_ref(args);  // (t)
  if (args.token_weights) nll = nll * args.token_weights->to(nll.scalar_type());
  return {nll.sum(), args.targets.ne(args.ignore_index).sum()};
}

Tensor token_nll_ref(const TokenNllArgs& args) {
  const LinearCrossEntropyArgs all{args.hidden,       args.weight, args.targets, std::nullopt,
                                   args.ignore_index, 0.0,         0.0,          args.logit_scale};
  check_linear_cross_entropy("token_nll_ref", all);
  return nll_ref(all);
}

namespace {
std::tuple<Tensor, Tensor> linear_cross_entropy_ref_call(const Tensor& hidden, const Tensor& weight,
                                                         const Tensor& targets,
                                                         const std::optional<Tensor>& token_weights,
                                                         int64_t ignore_index,
                                                         double label_smoothing, double z_loss,
                                                         double logit_scale) {
  return linear_cross_entropy_ref(
      {hidden, weight, targets, token_weights, ignore_index, label_smoothing, z_loss, logit_scale});
}
Tensor token_nll_ref_call(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                          int64_t ignore_index, double logit_scale) {
  return token_nll_ref({hidden, weight, targets, ignore_index, logit_scale});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("linear_cross_entropy_ref", linear_cross_entropy_ref_call);
  m.impl("token_nll_ref", token_nll_ref_call);
}

}  // namespace aspis::ops
