// Slow and obvious: ATen calls only, any device, one document and one token after the other,
// differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "core/dispatch.h"
#include "ops/documents.h"
#include "ops/selective_scan/selective_scan.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptTensor = std::optional<Tensor>;

// One document: x (t, d), B and C (t, g, n), h (d, n). Returns y (t, d); `h` becomes the state
// after it.
template <typename Args>
Tensor walk_tokens(const Args& args, const std::function<Tensor(const Tensor&)>& pick, Tensor& h) {
  const auto type = h.scalar_type();
  const Tensor x = pick(args.x).to(type), A = args.A.to(type);  // (t, d), (d, n)
  Tensor dt = pick(args.delta).to(type);                        // (t, d)
  if (args.delta_bias) dt = dt + args.delta_bias->to(type);
  if (args.delta_softplus) dt = -at::log_sigmoid(-dt);
  const int64_t per_group = x.size(1) / args.B.size(2);
  const Tensor B = pick(args.B).to(type).repeat_interleave(per_group, 1);  // (t, d, n)
  const Tensor C = pick(args.C).to(type).repeat_interleave(per_group, 1);  // (t, d, n)
  std::vector<Tensor> rows;
  for (int64_t t = 0; t < x.size(0); ++t) {
    h = at::exp(dt[t].unsqueeze(1) * A) * h + (dt[t] * x[t]).unsqueeze(1) * B[t];
    rows.push_back((C[t] * h).sum(1));
  }
  Tensor y = rows.empty() ? x : at::stack(rows);
  if (args.D) y = y + args.D->to(type) * x;
  if (args.z) y = y * at::silu(pick(*args.z).to(type));
  return y;
}

}  // namespace

std::tuple<Tensor, Tensor> selective_scan_ref(const SelectiveScanArgs& args) {
  check_selective_scan(args);
  const Tensor& x = args.x;
  const auto options = x.options().dtype(compute_type(x.scalar_type()));
  const int64_t d = x.size(2), n = args.A.size(1);
  const int64_t count = args.cu_seqlens ? args.cu_seqlens->size(0) - 1 : x.size(0);
  std::vector<Tensor> last(count, at::zeros({d, n}, options));
  Tensor y = at::zeros(x.sizes(), options);  // (b, l, d)
  for (const DocumentTokens& document :
       list_document_tokens("selective_scan", x, args.seq_idx, args.cu_seqlens, args.reverse)) {
    Tensor h = args.initial_state && document.initial >= 0
                   ? args.initial_state->select(0, document.initial).clone()
                   : at::zeros({d, n}, options);
    const auto pick = [&](const Tensor& t) {
      return t.select(0, document.row).index_select(0, document.positions);
    };
    const Tensor part = walk_tokens(args, pick, h);
    if (part.numel() > 0) y.select(0, document.row).index_copy_(0, document.positions, part);
    if (document.last >= 0) last[document.last] = h;
  }
  const Tensor states = count == 0 ? at::zeros({0, d, n}, options) : at::stack(last);
  return {y.to(x.scalar_type()), args.return_last_state ? states : at::zeros({0}, options)};
}

Tensor selective_scan_step_ref(const SelectiveScanStepArgs& args) {
  check_selective_scan_step(args);
  const auto type = compute_type(args.x.scalar_type());
  const auto slot = [&](const OptTensor& slots, int64_t row) {
    return slots ? (*slots)[row].item<int64_t>() : row;
  };
  Tensor y = at::zeros(args.x.sizes(), args.x.options());  // (b, t, d)
  std::vector<std::pair<int64_t, Tensor>> writes;
  for (int64_t row = 0; row < args.x.size(0); ++row) {
    const int64_t src = slot(args.src_slots, row);
    if (src < 0) continue;
    Tensor h = args.state.select(0, src).to(type, /*non_blocking=*/false, /*copy=*/true);
    const auto pick = [&](const Tensor& t) { return t.select(0, row); };
    y.select(0, row).copy_(walk_tokens(args, pick, h));
    const int64_t dst = slot(args.dst_slots ? args.dst_slots : args.src_slots, row);
    if (dst >= 0) writes.emplace_back(dst, h);
  }
  for (const auto& [dst, h] : writes) args.state.select(0, dst).copy_(h);
  return y;
}

namespace {

std::tuple<Tensor, Tensor> ref_call(const Tensor& x, const Tensor& delta, const Tensor& A,
                                    const Tensor& B, const Tensor& C, const OptTensor& D,
                                    const OptTensor& z, const OptTensor& delta_bias,
                                    bool delta_softplus, const OptTensor& initial_state,
                                    const OptTensor& seq_idx, const OptTensor& cu_seqlens,
                                    bool reverse, bool return_last_state) {
  return selective_scan_ref({x, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
                             seq_idx, cu_seqlens, reverse, return_last_state});
}

Tensor step_ref_call(Tensor& state, const Tensor& x, const Tensor& delta, const Tensor& A,
                     const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                     const OptTensor& delta_bias, bool delta_softplus, const OptTensor& src_slots,
                     const OptTensor& dst_slots) {
  return selective_scan_step_ref(
      {state, x, delta, A, B, C, D, z, delta_bias, delta_softplus, src_slots, dst_slots});
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("selective_scan_ref", ref_call);
  m.impl("selective_scan_step_ref", step_ref_call);
}

}  // namespace aspis::ops
