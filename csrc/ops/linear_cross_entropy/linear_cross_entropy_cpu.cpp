// CPU: chunks of tokens through matrix products and the row kernel of this processor.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
const LinearCrossEntropyKernels<T>& kernels() {
  return cpu::select(avx512::linear_cross_entropy_kernels<T>(),
                     avx2::linear_cross_entropy_kernels<T>(),
                     generic::linear_cross_entropy_kernels<T>());
}

// The tokens that count, in order.
struct ValidTokens {
  std::vector<int64_t> index;  // of the token
  std::vector<int64_t> target;
  std::vector<double> weight;  // empty without token_weights
};

ValidTokens find_valid_tokens(const char* op, const LinearCrossEntropyArgs& args) {
  const int64_t tokens = args.hidden.size(0), vocabulary = args.weight.size(0);
  const Tensor targets = args.targets.contiguous();  // (t)
  const int64_t* target = targets.const_data_ptr<int64_t>();
  ValidTokens valid;
  for (int64_t t = 0; t < tokens; ++t) {
    if (target[t] == args.ignore_index) continue;
    TORCH_CHECK(target[t] >= 0 && target[t] < vocabulary, op, ": targets[", t, "] = ", target[t],
                " is not a token of the vocabulary [0, v=", vocabulary,
                ") and not ignore_index=", args.ignore_index);
    valid.index.push_back(t);
    valid.target.push_back(target[t]);
  }
  if (args.token_weights) {
    const Tensor weights = args.token_weights->contiguous();  // (t)
    for (int64_t t : valid.index) valid.weight.push_back(weights.const_data_ptr<float>()[t]);
  }
  return valid;
}

// nll (t) in float or double, and the gradients of sum(token_weights * nll) where a tensor is
// given: dhidden (t, d) in any floating dtype, dweight (v, d) in the type in which we compute.
Tensor nll_in_chunks(const LinearCrossEntropyArgs& args, const ValidTokens& valid,
                     const OptionalTensor& dhidden, const OptionalTensor& dweight) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::AutoDispatchBelowADInplaceOrView below;
  const auto type = compute_type(args.hidden.scalar_type());
  const int64_t tokens = args.hidden.size(0), vocabulary = args.weight.size(0);
  const auto count = static_cast<int64_t>(valid.index.size());
  const bool all = count == tokens, gradient = dhidden || dweight;
  const Tensor nll = allocate({tokens}, type, args.hidden);  // (t)
  nll.zero_();
  if (dhidden && !all) dhidden->zero_();
  if (dweight) dweight->zero_();
  if (count == 0) return nll;

  const Tensor weight = args.weight.to(type);                                            // (v, d)
  const Tensor index = at::tensor(valid.index, args.hidden.options().dtype(at::kLong));  // (count)
  const int64_t chunk = std::min(tokens_per_chunk(vocabulary), count);
  const Tensor buffer = allocate({chunk, vocabulary}, type, args.hidden);
  const Tensor chunk_nll = allocate({chunk}, type, args.hidden);
  const CrossEntropyParams params{vocabulary, args.logit_scale, args.label_smoothing, args.z_loss};
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin), end = begin + n;
    const Tensor rows = index.slice(0, begin, end);  // (n)
    const Tensor hidden =                            // (n, d)
        (all ? args.hidden.slice(0, begin, end) : at::index_select(args.hidden, 0, rows)).to(type);
    Tensor products = buffer.slice(0, 0, n);  // (n, v), later their gradient
    at::mm_out(products, hidden, weight.t());
    dispatch_float_double("linear_cross_entropy", type, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const double* token_weights = valid.weight.empty() ? nullptr : valid.weight.data() + begin;
      at::parallel_for(0, n, 1, [&](int64_t first, int64_t last) {
        kernels<T>().rows(params, products.data_ptr<T>(), valid.target.data() + begin,
                          token_weights, gradient, chunk_nll.data_ptr<T>(), first, last);
      });
    });
    nll.index_copy_(0, rows, chunk_nll.slice(0, 0, n));
    if (dhidden) {
      const Tensor part = at::mm(products, weight).to(dhidden->scalar_type());  // (n, d)
      if (all) {
        dhidden->slice(0, begin, end).copy_(part);
      } else {
        dhidden->index_copy_(0, rows, part);
      }
    }
    if (dweight) dweight->addmm_(products.t(), hidden);
  }
  return nll;
}

// In double and in the order of the tokens.
template <typename T>
double weighted_sum(const Tensor& nll, const ValidTokens& valid) {
  const T* values = nll.const_data_ptr<T>();
  double total = 0;
  for (size_t i = 0; i < valid.index.size(); ++i) {
    total += (valid.weight.empty() ? 1.0 : valid.weight[i]) *
             static_cast<double>(values[valid.index[i]]);
  }
  return total;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_fwd_cpu(
    const Tensor& hidden, const Tensor& weight, const Tensor& targets,
    const OptionalTensor& token_weights, int64_t ignore_index, double label_smoothing,
    double z_loss, double logit_scale, bool need_dhidden, bool need_dweight) {
  constexpr const char* op = "linear_cross_entropy";
  const LinearCrossEntropyArgs args{hidden,       weight,          targets, token_weights,
                                    ignore_index, label_smoothing, z_loss,  logit_scale};
  check_linear_cross_entropy(op, args);
  const auto type = compute_type(hidden.scalar_type());
  const ValidTokens valid = find_valid_tokens(op, args);
  const Tensor dhidden = need_dhidden ? allocate_like(hidden)  // (t, d)
                                      : allocate({0}, hidden.scalar_type(), hidden);
  const Tensor dweight =  // (v, d)
      need_dweight ? allocate_like(weight, type) : allocate({0}, type, hidden);
  const Tensor nll =
      nll_in_chunks(args, valid, need_dhidden ? OptionalTensor(dhidden) : std::nullopt,
                    need_dweight ? OptionalTensor(dweight) : std::nullopt);
  const Tensor loss_sum = allocate({}, type, hidden), num_valid = allocate({}, at::kLong, hidden);
  loss_sum.fill_(type == at::kDouble ? weighted_sum<double>(nll, valid)
                                     : weighted_sum<float>(nll, valid));
  num_valid.fill_(static_cast<int64_t>(valid.index.size()));
  return {loss_sum, num_valid, dhidden, dweight};
}

// dloss times a saved gradient, multiplied before the rounding to the result's dtype.
Tensor scaled(const Tensor& gradient, const Tensor& dloss, at::ScalarType type) {
  Tensor out = allocate_like(gradient, type);
  if (gradient.numel() > 0) at::mul_out(out, gradient.to(compute_type(type)), dloss);
  return out;
}

std::tuple<Tensor, Tensor> linear_cross_entropy_bwd_cpu(const Tensor& dloss, const Tensor& hidden,
                                                        const Tensor& weight, const Tensor& dhidden,
                                                        const Tensor& dweight) {
  check_linear_cross_entropy_backward(dloss, hidden, weight, dhidden, dweight);
  const at::AutoDispatchBelowADInplaceOrView below;
  return {scaled(dhidden, dloss, hidden.scalar_type()),
          scaled(dweight, dloss, weight.scalar_type())};
}

Tensor token_nll_cpu(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                     int64_t ignore_index, double logit_scale) {
  const LinearCrossEntropyArgs args{hidden,       weight, targets, std::nullopt,
                                    ignore_index, 0.0,    0.0,     logit_scale};
  check_linear_cross_entropy("token_nll", args);
  return nll_in_chunks(args, find_valid_tokens("token_nll", args), std::nullopt, std::nullopt);
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_linear_cross_entropy_fwd", linear_cross_entropy_fwd_cpu);
  m.impl("_linear_cross_entropy_bwd", linear_cross_entropy_bwd_cpu);
  m.impl("token_nll", token_nll_cpu);
}

}  // namespace aspis::ops
