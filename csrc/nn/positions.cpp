#include "nn/positions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cummax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "ops/documents.h"

namespace aspis::nn {

void check_segments(const char* op, const at::Tensor& hidden, const Segments& segments) {
  ops::check_documents(op, hidden, segments.seq_idx, segments.cu_seqlens);
  if (segments.cu_seqlens && segments.cu_seqlens->is_cpu()) {
    ops::list_documents(op, hidden.size(0), hidden.size(1), std::nullopt, segments.cu_seqlens,
                        /*reverse=*/false);
  }
}

Positions list_positions(const at::Tensor& hidden, const Segments& segments) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(hidden.device());
  const at::Tensor index = at::arange(hidden.size(1), options).unsqueeze(0);  // (1, l)
  if (segments.cu_seqlens) {
    return {at::bucketize(index, *segments.cu_seqlens, /*out_int32=*/false, /*right=*/true), index};
  }
  if (!segments.seq_idx) return {at::zeros({1, hidden.size(1)}, options), index};
  const at::Tensor ids = segments.seq_idx->to(at::kLong);  // (b, l)
  const at::Tensor real = ids.ge(0);                       // (b, l)
  // The last real token before each token, -1 where there is none.
  const at::Tensor last = std::get<0>(at::cummax(at::where(real, index, -1), 1));
  const at::Tensor none = at::zeros({ids.size(0), 1}, options) - 1;
  const at::Tensor before = at::cat({none, last}, 1).narrow(1, 0, ids.size(1));
  const at::Tensor id_before = ids.gather(1, before.clamp_min(0));
  const at::Tensor starts = real.logical_and(before.lt(0).logical_or(id_before.ne(ids)));
  const at::Tensor document = starts.cumsum(1, at::kLong);
  return {at::where(real, document, -1 - index), real.cumsum(1, at::kLong) - 1};
}

at::Tensor zero_padding(const at::Tensor& out, const Segments& segments) {
  if (!segments.seq_idx) return out;
  at::Tensor padding = segments.seq_idx->lt(0);  // (b, l)
  while (padding.dim() < out.dim()) padding = padding.unsqueeze(-1);
  return out.masked_fill(padding, 0);
}

}  // namespace aspis::nn
