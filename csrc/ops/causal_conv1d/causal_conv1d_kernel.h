#pragma once
// The table of CPU kernels that causal_conv1d_kernel.cpp defines once per instruction set. Rows are
// pointers to d adjacent channels, so that documents, padding, reversed time, states and the
// strides of x are all said by the order of a table. weight is (w, d), bias (d) or null.

#include "ops/causal_conv1d/params.h"

namespace aspis::ops {

template <typename T>
struct CausalConv1dKernels {
  // y[i] = act(bias + sum over k of weight[k] * rows[i + k]) for i < count, channels [begin, end).
  void (*fwd)(const CausalConv1dParams&, const T* const* rows, const T* weight, const T* bias,
              T* const* y, int64_t count, int64_t begin, int64_t end);
  // dx of the chunk's rows, and the share of dweight (w rows) and dbias (one more row) that belongs
  // to its tokens, added to `partial` (w + 1, d). Channels [begin, end). `scratch` holds (chunk
  // rows + w - 1) * kScratchLanes<T> elements.
  void (*bwd)(const CausalConv1dParams&, const CausalConv1dBwdChunk<T>& chunk, const T* weight,
              const T* bias, T* partial, T* scratch, int64_t begin, int64_t end);
};

// Lanes of the widest vector of any instruction set.
template <typename T>
inline constexpr int64_t kScratchLanes = 64 / static_cast<int64_t>(sizeof(T));

namespace generic {
template <typename T>
const CausalConv1dKernels<T>& causal_conv1d_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const CausalConv1dKernels<T>& causal_conv1d_kernels();
}
namespace avx512 {
template <typename T>
const CausalConv1dKernels<T>& causal_conv1d_kernels();
}
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::ops
