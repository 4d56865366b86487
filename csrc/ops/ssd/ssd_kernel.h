#pragma once
// The tables of CPU kernels that the *_kernel.cpp files define once per instruction set.

#include "ops/ssd/params.h"

namespace aspis::ops {

template <typename T>
struct SsdForwardKernels {
  int64_t (*scratch)(int64_t heads_in_unit, int64_t p, int64_t n);  // numbers that one unit needs
  void (*run)(const SsdForward<T>& unit);
};
template <typename T>
struct SsdBackwardKernels {
  int64_t (*scratch)(int64_t heads_in_unit, int64_t p, int64_t n);
  void (*run)(const SsdBackward<T>& unit);
};
template <typename T>
struct SsdStepKernels {
  void (*run)(const SsdStep<T>& unit);
};

namespace generic {
template <typename T>
const SsdForwardKernels<T>& ssd_forward_kernels();
template <typename T>
const SsdBackwardKernels<T>& ssd_backward_kernels();
template <typename T>
const SsdStepKernels<T>& ssd_step_kernels();
}  // namespace generic
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const SsdForwardKernels<T>& ssd_forward_kernels();
template <typename T>
const SsdBackwardKernels<T>& ssd_backward_kernels();
template <typename T>
const SsdStepKernels<T>& ssd_step_kernels();
}  // namespace avx2
namespace avx512 {
template <typename T>
const SsdForwardKernels<T>& ssd_forward_kernels();
template <typename T>
const SsdBackwardKernels<T>& ssd_backward_kernels();
template <typename T>
const SsdStepKernels<T>& ssd_step_kernels();
}  // namespace avx512
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::ops
