#pragma once
// The table of CPU row kernels that rms_norm_kernel.cpp defines once per instruction set. rms_norm,
// add_rms_norm and gated_rms_norm share it: the parts that an op lacks are null pointers. An op has
// at most one of residual (or dsum) and z.

#include "ops/rms_norm/params.h"

namespace aspis::ops {

// Rows of `channels` neighbouring elements, `stride` apart.
template <typename T>
struct NormRows {
  const T* data = nullptr;
  int64_t stride = 0;
};

template <typename T>
struct NormForward {
  NormRows<T> x;
  NormRows<T> residual;       // optional: what is normalised is x + residual
  NormRows<T> z;              // optional: gate
  const T* weight = nullptr;  // (channels)
  T* y = nullptr;             // (rows, channels) contiguous
  T* sum = nullptr;           // x + residual, contiguous; wanted exactly when there is a residual
};

template <typename T>
struct NormBackward {
  NormRows<T> dy;
  NormRows<T> x;              // what was normalised; with a gate, the input beside it
  NormRows<T> z;              // optional
  NormRows<T> dsum;           // optional: gradient that reaches x beside the one through the norm
  const T* weight = nullptr;  // (channels)
  T* dx = nullptr;            // (rows, channels) contiguous
  T* dz = nullptr;            // as dx; wanted exactly when there is a gate
};

template <typename T>
struct RmsNormKernels {
  // Rows [begin, end).
  void (*fwd)(const RmsNormParams&, const NormForward<T>&, int64_t begin, int64_t end);
  // Gradients of these rows. Their share of dweight (channels) is added to `dweight` unless that is
  // null.
  void (*bwd)(const RmsNormParams&, const NormBackward<T>&, T* dweight, int64_t begin, int64_t end);
  // out[c] = sum of partial[block, c] over blocks, in the order of the blocks.
  void (*add_up)(const T* partial, int64_t blocks, int64_t channels, T* out);
};

namespace generic {
template <typename T>
const RmsNormKernels<T>& rms_norm_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const RmsNormKernels<T>& rms_norm_kernels();
}
namespace avx512 {
template <typename T>
const RmsNormKernels<T>& rms_norm_kernels();
}
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::ops
