#include "ops/rms_norm/rows_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/rms_norm/rms_norm_kernel.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Rows in one unit of work. A constant, so that sums over rows do not depend on the number of
// threads.
constexpr int64_t kRowBlock = 32;

template <typename T>
const RmsNormKernels<T>& kernels() {
  return cpu::select(avx512::rms_norm_kernels<T>(), avx2::rms_norm_kernels<T>(),
                     generic::rms_norm_kernels<T>());
}

// The distance between neighbouring rows, if one number says it (a slice of a packed projection has
// one).
std::optional<int64_t> row_stride(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  if (x.size(last) != 1 && x.stride(last) != 1) return std::nullopt;
  std::optional<int64_t> stride;
  int64_t expected = 0;
  for (int64_t i = last - 1; i >= 0; --i) {
    if (x.size(i) == 1) continue;
    if (stride && x.stride(i) != expected) return std::nullopt;
    if (!stride) stride = x.stride(i);
    expected = x.stride(i) * x.size(i);
  }
  return stride.value_or(x.size(last));
}

struct Rows {
  Tensor tensor;
  int64_t stride = 0;

  template <typename T>
  NormRows<T> pointer() const {
    if (!tensor.defined()) return {};
    return {tensor.const_data_ptr<T>(), stride};
  }
};

// A copy for half types and for rows that no single stride describes.
Rows as_rows(const Tensor& x, at::ScalarType type) {
  const Tensor same = x.to(type);
  if (const auto stride = row_stride(same)) return {same, *stride};
  return {same.contiguous(), x.size(-1)};
}
Rows as_rows(const OptionalTensor& x, at::ScalarType type) {
  return x ? as_rows(*x, type) : Rows{};
}

// Where the kernel writes: the result itself if it is contiguous and of the type in which we
// compute.
Tensor writable(const Tensor& result, at::ScalarType type) {
  if (result.scalar_type() == type && result.is_contiguous()) return result;
  return allocate(result.sym_sizes(), type, result);
}
void deliver(const Tensor& written, const Tensor& result) {
  if (!written.is_same(result)) result.copy_(written);
}

Tensor weight_or_ones(const NormTensors& in, at::ScalarType type) {
  if (in.weight) return in.weight->to(type).contiguous();
  return at::ones({in.x.size(-1)}, in.x.options().dtype(type));
}

RmsNormParams params_of(const NormTensors& in) {
  const int64_t d = in.x.size(-1), size = in.group_size.value_or(d);
  return {in.x.numel() / d, d / size, size, in.eps, in.norm_before_gate};
}

}  // namespace

void norm_forward_cpu(const NormTensors& in, Tensor& y, const OptionalTensor& sum) {
  if (in.x.numel() == 0) return;
  const auto type = compute_type(in.x.scalar_type());
  const RmsNormParams params = params_of(in);
  const Rows x = as_rows(in.x, type), residual = as_rows(in.residual, type),
             z = as_rows(in.z, type);
  const Tensor weight = weight_or_ones(in, type);             // (d)
  const Tensor yc = writable(y, type);                        // (..., d)
  const Tensor sumc = sum ? writable(*sum, type) : Tensor();  // (..., d)
  dispatch_float_double("rms_norm", type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormForward<T> call;
    call.x = x.pointer<T>();
    call.residual = residual.pointer<T>();
    call.z = z.pointer<T>();
    call.weight = weight.const_data_ptr<T>();
    call.y = yc.data_ptr<T>();
    call.sum = sumc.defined() ? sumc.data_ptr<T>() : nullptr;
    at::parallel_for(0, params.rows, kRowBlock, [&](int64_t begin, int64_t end) {
      kernels<T>().fwd(params, call, begin, end);
    });
  });
  deliver(yc, y);
  if (sum) deliver(sumc, *sum);
}

NormGradients norm_backward_cpu(const Tensor& dy, const OptionalTensor& dsum, const NormTensors& in,
                                at::ScalarType dx_type, bool need_dweight) {
  const auto type = compute_type(in.x.scalar_type());
  const int64_t d = in.x.size(-1);
  need_dweight = need_dweight && in.weight;
  NormGradients grads;
  grads.dx = allocate_like(in.x, dx_type);
  if (in.z) grads.dz = allocate_like(*in.z);
  grads.dweight = need_dweight ? allocate({d}, in.weight->scalar_type(), in.x)
                               : allocate({0}, dy.scalar_type(), in.x);
  if (in.x.numel() == 0) {
    grads.dweight.zero_();
    return grads;
  }
  const RmsNormParams params = params_of(in);
  const int64_t blocks = (params.rows + kRowBlock - 1) / kRowBlock;
  const Rows x = as_rows(in.x, type), z = as_rows(in.z, type);
  const Rows dyr = as_rows(dy, type), dsumr = as_rows(dsum, type);
  const Tensor weight = weight_or_ones(in, type);                               // (d)
  const Tensor dxc = writable(grads.dx, type);                                  // (..., d)
  const Tensor dzc = in.z ? writable(*grads.dz, type) : Tensor();               // (..., d)
  const Tensor dweight = writable(grads.dweight, type);                         // (d)
  const Tensor partial = allocate({need_dweight ? blocks : 0, d}, type, in.x);  // (blocks, d)
  if (need_dweight) partial.zero_();
  dispatch_float_double("rms_norm", type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormBackward<T> call;
    call.dy = dyr.pointer<T>();
    call.x = x.pointer<T>();
    call.z = z.pointer<T>();
    call.dsum = dsumr.pointer<T>();
    call.weight = weight.const_data_ptr<T>();
    call.dx = dxc.data_ptr<T>();
    call.dz = dzc.defined() ? dzc.data_ptr<T>() : nullptr;
    T* sums = partial.data_ptr<T>();
    at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        kernels<T>().bwd(params, call, need_dweight ? sums + block * d : nullptr, block * kRowBlock,
                         std::min(params.rows, (block + 1) * kRowBlock));
      }
    });
    if (need_dweight) kernels<T>().add_up(sums, blocks, d, dweight.data_ptr<T>());
  });
  deliver(dxc, grads.dx);
  if (in.z) deliver(dzc, *grads.dz);
  if (need_dweight) deliver(dweight, grads.dweight);
  return grads;
}

}  // namespace aspis::ops
