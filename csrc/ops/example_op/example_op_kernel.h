#pragma once
// The table of CPU kernels that example_op_kernel.cpp defines once per instruction set. x, y, dy
// and dx are contiguous (rows, channels).

#include "ops/example_op/params.h"

namespace aspis::ops {

template <typename T>
struct ExampleOpKernels {
  // Rows [begin, end).
  void (*fwd)(const ExampleOpParams&, const T* x, const T* weight, T* y, int64_t begin,
              int64_t end);
  // dx of these rows, and their share of dweight (channels), added to what is there.
  void (*bwd)(const ExampleOpParams&, const T* dy, const T* x, const T* weight, T* dx, T* dweight,
              int64_t begin, int64_t end);
};

namespace generic {
template <typename T>
const ExampleOpKernels<T>& example_op_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const ExampleOpKernels<T>& example_op_kernels();
}
namespace avx512 {
template <typename T>
const ExampleOpKernels<T>& example_op_kernels();
}
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::ops
