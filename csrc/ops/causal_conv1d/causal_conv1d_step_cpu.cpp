// CPU decode step: the forward kernel over the window and the new tokens of each row.
#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/causal_conv1d/causal_conv1d_kernel.h"
#include "ops/causal_conv1d/operators.h"

namespace aspis::ops {
namespace {

using at::Tensor;

// Multiply-adds worth a thread of their own.
constexpr int64_t kGrain = 16384;

template <typename T>
const CausalConv1dKernels<T>& kernels() {
  return cpu::select(avx512::causal_conv1d_kernels<T>(), avx2::causal_conv1d_kernels<T>(),
                     generic::causal_conv1d_kernels<T>());
}

// Reads every window before any is written, so that rows may hand slots to each other.
template <typename T>
void step(const CausalConv1dStepArgs& args, const StepSlots& slots, at::ScalarType type,
          const Tensor& x, const Tensor& y) {
  const int64_t n = static_cast<int64_t>(slots.rows.size());
  const int64_t t = x.size(1), d = x.size(2), w = args.weight.size(1), before = w - 1;
  const Tensor weight = args.weight.to(type).t().contiguous();  // (w, d)
  const Tensor bias = args.bias ? args.bias->to(type).contiguous() : Tensor();
  const Tensor windows = allocate({n, before, d}, type, x);  // (n, w - 1, d)
  for (int64_t i = 0; i < n; ++i)
    windows.select(0, i).copy_(args.state.select(0, slots.src[i]).t());

  std::vector<const T*> rows(static_cast<size_t>(n * (before + t)));
  std::vector<T*> outputs(static_cast<size_t>(n * t));
  for (int64_t i = 0; i < n; ++i) {
    const T** row = rows.data() + i * (before + t);
    for (int64_t j = 0; j < before; ++j)
      row[j] = windows.const_data_ptr<T>() + (i * before + j) * d;
    for (int64_t j = 0; j < t; ++j) {
      row[before + j] = x.const_data_ptr<T>() + slots.rows[i] * x.stride(0) + j * x.stride(1);
      outputs[i * t + j] = y.data_ptr<T>() + slots.rows[i] * y.stride(0) + j * y.stride(1);
    }
  }
  const CausalConv1dParams params{d, w, args.activation == "silu"};
  const T* bias_data = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, t * d * w));
  at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels<T>().fwd(params, rows.data() + i * (before + t), weight.const_data_ptr<T>(),
                       bias_data, outputs.data() + i * t, t, 0, d);
    }
  });

  const Tensor last = allocate({n, before, d}, type, x);  // (n, w - 1, d)
  for (int64_t i = 0; i < n; ++i) {
    if (slots.dst[i] < 0) continue;
    for (int64_t j = 0; j < before; ++j) {
      const T* row = rows[i * (before + t) + t + j];
      std::copy(row, row + d, last.data_ptr<T>() + (i * before + j) * d);
    }
    args.state.select(0, slots.dst[i]).copy_(last.select(0, i).t());
  }
}

Tensor causal_conv1d_step_cpu(Tensor& state, const Tensor& x, const Tensor& weight,
                              const OptionalTensor& bias, std::string_view activation,
                              const OptionalTensor& src_slots, const OptionalTensor& dst_slots) {
  const CausalConv1dStepArgs args{x,         state,    weight, bias, std::string(activation),
                                  src_slots, dst_slots};
  check_causal_conv1d_step(args);
  const StepSlots slots = list_step_slots(args);
  const auto type = compute_type(x.scalar_type());
  Tensor y = allocate_like(x);  // (b, t, d)
  Tensor xc = x.to(type);
  if (x.size(2) > 1 && xc.stride(2) != 1) xc = xc.contiguous();
  const bool direct = y.scalar_type() == type && (x.size(2) <= 1 || y.stride(2) == 1);
  const Tensor out = direct ? y : allocate(x.sym_sizes(), type, x);
  if (static_cast<int64_t>(slots.rows.size()) < x.size(0)) out.zero_();  // padding rows
  dispatch_float_double("causal_conv1d_step", type, [&](auto tag) {
    step<typename decltype(tag)::type>(args, slots, type, xc, out);
  });
  if (!direct) y.copy_(out);
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("causal_conv1d_step", causal_conv1d_step_cpu);
}

}  // namespace aspis::ops
