// Compiled once per instruction set (core/cpu/isa.h). No Torch, no standard library templates.
#include "ops/example_op/example_op_kernel.h"

#include "core/cpu/vec.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

template <typename T>
void fwd(const ExampleOpParams& p, const T* x, const T* weight, T* y, int64_t begin, int64_t end) {
  const T scale = static_cast<T>(p.scale);
  for (int64_t row = begin; row < end; ++row) {
    const T* xr = x + row * p.channels;
    T* yr = y + row * p.channels;
    int64_t d = 0;
    for (; d + kLanes<T> <= p.channels; d += kLanes<T>) {
      store<T>(yr + d, scale * load<T>(xr + d) * load<T>(weight + d));
    }
    for (; d < p.channels; ++d) yr[d] = scale * xr[d] * weight[d];
  }
}

template <typename T>
void bwd(const ExampleOpParams& p, const T* dy, const T* x, const T* weight, T* dx, T* dweight,
         int64_t begin, int64_t end) {
  const T scale = static_cast<T>(p.scale);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * p.channels;
    for (int64_t d = 0; d < p.channels; ++d) {
      dx[at + d] = scale * dy[at + d] * weight[d];
      dweight[d] += scale * dy[at + d] * x[at + d];
    }
  }
}

}  // namespace

template <typename T>
const ExampleOpKernels<T>& example_op_kernels() {
  static constexpr ExampleOpKernels<T> table{fwd<T>, bwd<T>};
  return table;
}
template const ExampleOpKernels<float>& example_op_kernels<float>();
template const ExampleOpKernels<double>& example_op_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
