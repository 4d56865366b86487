// Slow and obvious: ATen calls only, any device, differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/causal_conv1d/operators.h"
#include "ops/documents.h"

namespace aspis::ops {

using at::Tensor;

namespace {

// The outputs of `sequence` (w - 1 + n, d), the first w - 1 rows of which lie before the first
// output.
Tensor convolve(const Tensor& sequence, const Tensor& weight, const OptionalTensor& bias,
                bool silu) {
  const int64_t w = weight.size(1), n = sequence.size(0) - (w - 1);
  Tensor y = at::zeros({n, sequence.size(1)}, sequence.options());  // (n, d)
  if (bias) y = y + *bias;
  for (int64_t k = 0; k < w; ++k) y = y + sequence.narrow(0, k, n) * weight.select(1, k);
  return silu ? at::silu(y) : y;
}

OptionalTensor converted(const OptionalTensor& tensor, at::ScalarType type) {
  return tensor ? OptionalTensor(tensor->to(type)) : std::nullopt;
}

}  // namespace

std::tuple<Tensor, Tensor> causal_conv1d_ref(const CausalConv1dArgs& args) {
  check_causal_conv1d(args);
  const Tensor& x = args.x;  // (b, l, d)
  const auto type = compute_type(x.scalar_type());
  const int64_t b = x.size(0), l = x.size(1), d = x.size(2), w = args.weight.size(1);
  const Tensor weight = args.weight.to(type);                          // (d, w)
  const OptionalTensor bias = converted(args.bias, type);              // (d)
  const OptionalTensor initial = converted(args.initial_state, type);  // (b | docs, d, w - 1)
  const auto options = x.options().dtype(type);
  const int64_t states = args.cu_seqlens ? args.cu_seqlens->size(0) - 1 : b;

  std::vector<Tensor> outputs, places;
  std::vector<Tensor> last(static_cast<size_t>(states));  // (d, w - 1) each
  for (const DocumentTokens& document :
       list_document_tokens("causal_conv1d", x, args.seq_idx, args.cu_seqlens, args.reverse)) {
    const Tensor before = initial && document.initial >= 0
                              ? initial->select(0, document.initial).t()  // (w - 1, d)
                              : at::zeros({w - 1, d}, options);
    const Tensor tokens = x.select(0, document.row).index_select(0, document.positions).to(type);
    const Tensor sequence = at::cat({before, tokens});  // (w - 1 + n, d)
    outputs.push_back(convolve(sequence, weight, bias, args.activation == "silu"));
    places.push_back(document.positions + document.row * l);
    if (document.last >= 0) {
      last[static_cast<size_t>(document.last)] =
          sequence.narrow(0, document.positions.size(0), w - 1).t();
    }
  }
  if (outputs
          .empty()) {  // b = 0 or docs = 0: nothing to compute, but the results keep their history
    return {x.clone(), !args.return_last_state ? at::zeros({0}, x.options())
                       : args.initial_state    ? args.initial_state->clone()
                                               : at::zeros({0, d, w - 1}, x.options())};
  }
  Tensor y = at::zeros({b * l, d}, options);  // padding stays zero
  y = y.index_copy(0, at::cat(places), at::cat(outputs)).view({b, l, d}).to(x.scalar_type());
  if (!x.is_contiguous()) y = at::empty_like(x).copy_(y);  // x's stride order
  return {y, args.return_last_state ? at::stack(last).to(x.scalar_type())
                                    : at::zeros({0}, x.options())};
}

namespace {
std::tuple<Tensor, Tensor> causal_conv1d_ref_call(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
  return causal_conv1d_ref({x, weight, bias, std::string(activation), initial_state, seq_idx,
                            cu_seqlens, reverse, return_last_state});
}
}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("causal_conv1d_ref", causal_conv1d_ref_call);
}

}  // namespace aspis::ops
