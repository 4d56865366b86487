// token_nll: schema, Meta, typed call, and what surrounds it: it is forward only.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/dispatch.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/refusals.h"

namespace aspis::ops {
namespace {

using at::Tensor;

Tensor token_nll_meta(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                      int64_t ignore_index, double logit_scale) {
  check_linear_cross_entropy(
      "token_nll", {hidden, weight, targets, std::nullopt, ignore_index, 0.0, 0.0, logit_scale});
  return allocate({hidden.sym_size(0)}, compute_type(hidden.scalar_type()), hidden);
}

const auto& handle() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::token_nll", "")
                             .typed<decltype(token_nll_meta)>();
  return op;
}

Tensor token_nll_autograd(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                          int64_t ignore_index, double logit_scale) {
  refuse_functorch("token_nll");
  refuse_gradient("token_nll", {hidden, weight});
  require_kernel("token_nll", handle(), hidden);
  at::AutoDispatchBelowADInplaceOrView below;
  return handle().call(hidden, weight, targets, ignore_index, logit_scale);
}

// hidden and weight take the autocast dtype, as in a linear layer.
template <at::DeviceType device, c10::DispatchKey key>
Tensor token_nll_autocast(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                          int64_t ignore_index, double logit_scale) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return token_nll({at::autocast::cached_cast(type, hidden, device),
                    at::autocast::cached_cast(type, weight, device), targets, ignore_index,
                    logit_scale});
}

}  // namespace

Tensor token_nll(const TokenNllArgs& args) {
  require_kernel("token_nll", handle(), args.hidden);
  return handle().call(args.hidden, args.weight, args.targets, args.ignore_index, args.logit_scale);
}

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  m.def(
      "token_nll(Tensor hidden, Tensor weight, Tensor targets, *, int ignore_index=-100, "
      "float logit_scale=1.0) -> Tensor");
  m.def(
      "token_nll_ref(Tensor hidden, Tensor weight, Tensor targets, *, int ignore_index=-100, "
      "float logit_scale=1.0) -> Tensor");
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("token_nll", token_nll_meta);
}
TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("token_nll", token_nll_autograd);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("token_nll", token_nll_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("token_nll", token_nll_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("token_nll", batching_refusal());
}

}  // namespace aspis::ops
