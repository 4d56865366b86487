// Slow and obvious: token by token in ATen calls, any device, differentiable by autograd itself.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <vector>

#include "core/dispatch.h"
#include "ops/documents.h"
#include "ops/ssd/calls.h"
#include "ops/ssd/ssd.h"

namespace aspis::ops {

std::tuple<at::Tensor, at::Tensor> ssd_ref(const SsdArgs& args) {
  check_ssd(args);
  const auto type = compute_type(args.x.scalar_type());
  const int64_t b = args.x.size(0), h = args.x.size(2), p = args.x.size(3), n = args.B.size(3);
  const int64_t per_group = h / args.B.size(2);
  const at::Tensor x = args.x.to(type);                                  // (b, l, h, p)
  const at::Tensor A = args.A.to(type);                                  // (h)
  const at::Tensor B = args.B.to(type).repeat_interleave(per_group, 2);  // (b, l, h, n)
  const at::Tensor C = args.C.to(type).repeat_interleave(per_group, 2);  // (b, l, h, n)
  at::Tensor dt = args.dt.to(type);                                      // (b, l, h)
  if (args.dt_bias) dt = dt + args.dt_bias->to(type);
  if (args.dt_softplus) dt = at::softplus(dt, 1, /*threshold=*/40);
  if (args.dt_min || args.dt_max) {
    const auto limit = [](std::optional<double> value) {
      return value ? std::optional<at::Scalar>(*value) : std::nullopt;
    };
    dt = dt.clamp(limit(args.dt_min), limit(args.dt_max));
  }

  std::vector<at::Tensor> rows(b), states(state_count(args.x, args.cu_seqlens).expect_int());
  for (at::Tensor& row : rows)
    row = at::zeros({x.size(1), h, p}, x.options());  // padding stays zero
  for (const DocumentTokens& document :
       list_document_tokens("ssd", args.x, args.seq_idx, args.cu_seqlens, args.reverse)) {
    at::Tensor S = args.initial_state && document.initial >= 0
                       ? (*args.initial_state)[document.initial].to(type).clone()
                       : at::zeros({h, p, n}, x.options());  // (h, p, n)
    const auto pick = [&](const at::Tensor& t) {
      return t[document.row].index_select(0, document.positions).unbind(0);
    };
    const auto xs = pick(x), dts = pick(dt), Bs = pick(B), Cs = pick(C);
    std::vector<at::Tensor> ys;
    for (size_t i = 0; i < xs.size(); ++i) {
      const at::Tensor input = (dts[i].unsqueeze(-1) * xs[i]).unsqueeze(-1) * Bs[i].unsqueeze(-2);
      S = (dts[i] * A).exp().view({h, 1, 1}) * S + input;
      ys.push_back((S * Cs[i].unsqueeze(-2)).sum(-1));  // (h, p)
    }
    if (!ys.empty()) {
      rows[document.row] = rows[document.row].index_copy(0, document.positions, at::stack(ys));
    }
    if (document.last >= 0) states[document.last] = S;
  }
  at::Tensor y = b > 0 ? at::stack(rows) : at::zeros_symint(x.sym_sizes(), x.options());
  if (args.D) {
    const at::Tensor D = args.D->to(type);
    at::Tensor skip = (D.dim() == 1 ? D.unsqueeze(-1) : D) * x;
    if (args.seq_idx) skip = skip * (*args.seq_idx >= 0).unsqueeze(-1).unsqueeze(-1);
    y = y + skip;
  }
  if (args.z) y = y * (args.z->to(type) * args.z->to(type).sigmoid());
  at::Tensor last_state = at::empty({0}, x.options());
  if (args.return_last_state) {
    last_state = states.empty() ? at::zeros({0, h, p, n}, x.options()) : at::stack(states);
  }
  return {y.to(args.x.scalar_type()), last_state};
}

at::Tensor ssd_step_ref(const SsdStepArgs& args) {
  check_ssd_step(args);
  const auto type = compute_type(args.x.scalar_type());
  SsdArgs all;
  all.x = args.x;
  all.dt = args.dt;
  all.A = args.A;
  all.B = args.B;
  all.C = args.C;
  all.D = args.D;
  all.z = args.z;
  all.dt_bias = args.dt_bias;
  all.dt_softplus = args.dt_softplus;
  all.dt_min = args.dt_min;
  all.dt_max = args.dt_max;
  all.return_last_state = true;
  const auto rows = at::arange(args.x.size(0), args.x.options().dtype(at::kLong));
  const at::Tensor src = args.src_slots ? args.src_slots->to(at::kLong) : rows;  // (b)
  const at::Tensor dst = args.dst_slots ? args.dst_slots->to(at::kLong) : src;   // (b)
  all.initial_state = args.state.index_select(0, src.clamp_min(0)).to(type);
  const auto [y, last] = ssd_ref(all);
  const at::Tensor written = src.ge(0).logical_and(dst.ge(0)).nonzero().squeeze(-1);
  args.state.index_copy_(0, dst.index_select(0, written),
                         last.index_select(0, written).to(args.state.scalar_type()));
  const at::Tensor real = src.ge(0).view({-1, 1, 1, 1});
  return at::where(real, y, at::zeros_like(y));
}

TORCH_LIBRARY_IMPL(aspis, CompositeImplicitAutograd, m) {
  m.impl("ssd_ref", SpreadSsd<ssd_ref>::call);
  m.impl("ssd_step_ref", SpreadStep<ssd_step_ref>::call);
}

}  // namespace aspis::ops
