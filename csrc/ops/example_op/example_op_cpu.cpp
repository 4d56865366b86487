// CPU: tensors -> contiguous float or double -> kernel of this processor, threaded.
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/example_op/example_op.h"
#include "ops/example_op/example_op_kernel.h"

namespace aspis::ops {
namespace {

using at::Tensor;

// Rows in one unit of work. A constant, so that sums over rows do not depend on the number of
// threads.
constexpr int64_t kRowBlock = 64;

template <typename T>
const ExampleOpKernels<T>& kernels() {
  return cpu::select(avx512::example_op_kernels<T>(), avx2::example_op_kernels<T>(),
                     generic::example_op_kernels<T>());
}

Tensor example_op_fwd_cpu(const Tensor& x, const Tensor& weight, double scale) {
  check_example_op({x, weight, scale});
  Tensor y = allocate_like(x);  // (b, l, d)
  if (x.numel() == 0) return y;
  const auto type = compute_type(x.scalar_type());
  const Tensor xc = x.to(type).contiguous();       // a copy for half types and unusual strides
  const Tensor wc = weight.to(type).contiguous();  // (d)
  const Tensor yc = allocate(xc.sym_sizes(), type, xc);
  const ExampleOpParams params{x.size(0) * x.size(1), x.size(2), scale};
  dispatch_float_double("example_op", type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    at::parallel_for(0, params.rows, kRowBlock, [&](int64_t begin, int64_t end) {
      kernels<T>().fwd(params, xc.const_data_ptr<T>(), wc.const_data_ptr<T>(), yc.data_ptr<T>(),
                       begin, end);
    });
  });
  y.copy_(yc);
  return y;
}

std::tuple<Tensor, Tensor> example_op_bwd_cpu(const Tensor& dy, const Tensor& x,
                                              const Tensor& weight, double scale) {
  check_example_op({x, weight, scale});
  const auto type = compute_type(x.scalar_type());
  const ExampleOpParams params{x.size(0) * x.size(1), x.size(2), scale};
  const int64_t blocks = (params.rows + kRowBlock - 1) / kRowBlock;
  Tensor dx = allocate_like(x);                                                    // (b, l, d)
  Tensor partial = at::zeros({blocks, params.channels}, x.options().dtype(type));  // (blocks, d)
  if (x.numel() > 0) {
    const Tensor xc = x.to(type).contiguous(), dyc = dy.to(type).contiguous();
    const Tensor wc = weight.to(type).contiguous();
    const Tensor dxc = allocate(xc.sym_sizes(), type, xc);
    dispatch_float_double("example_op", type, [&](auto tag) {
      using T = typename decltype(tag)::type;
      at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block) {
          kernels<T>().bwd(params, dyc.const_data_ptr<T>(), xc.const_data_ptr<T>(),
                           wc.const_data_ptr<T>(), dxc.data_ptr<T>(),
                           partial.data_ptr<T>() + block * params.channels, block * kRowBlock,
                           std::min(params.rows, (block + 1) * kRowBlock));
        }
      });
    });
    dx.copy_(dxc);
  }
  return {dx, partial.sum(0).to(weight.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_example_op_fwd", example_op_fwd_cpu);
  m.impl("_example_op_bwd", example_op_bwd_cpu);
}

}  // namespace aspis::ops
