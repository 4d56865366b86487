#pragma once
// The table of CPU kernels that linear_cross_entropy_kernel.cpp defines once per instruction set.

#include "ops/linear_cross_entropy/params.h"

namespace aspis::ops {

template <typename T>
struct LinearCrossEntropyKernels {
  // Rows [begin, end) of products (rows, v), contiguous: hidden weight^T before the logit scale.
  // Writes nll (rows). With gradient, row t of products becomes the gradient of token_weights[t] *
  // nll[t] with respect to itself; token_weights may be null (all ones).
  void (*rows)(const CrossEntropyParams&, T* products, const int64_t* targets,
               const double* token_weights, bool gradient, T* nll, int64_t begin, int64_t end);
};

namespace generic {
template <typename T>
const LinearCrossEntropyKernels<T>& linear_cross_entropy_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const LinearCrossEntropyKernels<T>& linear_cross_entropy_kernels();
}
namespace avx512 {
template <typename T>
const LinearCrossEntropyKernels<T>& linear_cross_entropy_kernels();
}
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::ops
