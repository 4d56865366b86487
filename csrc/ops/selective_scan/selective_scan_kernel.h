#pragma once
// The table of CPU kernels that selective_scan_kernel.cpp defines once per instruction set.
//
// A unit of work is one sequence (or a stretch of it) and one block of channels of one group;
// `block` counts over groups * blocks_per_group. Scratch belongs to the calling thread.

#include "ops/selective_scan/params.h"

namespace aspis::ops {

template <typename T>
struct SelectiveScanKernels {
  // Elements of scratch that `fwd` and `bwd` need for this state size.
  int64_t (*scratch)(int64_t states);
  // y and the final state of one sequence. The initial and the final slot may be the same memory.
  void (*fwd)(const ScanInputs<T>&, const ScanForward<T>&, const ScanSequence&, int64_t block,
              T* scratch);
  // Gradients of one task. `parameters` (n + 2, d) holds dA transposed, dD and ddelta_bias; they
  // are added to.
  void (*bwd)(const ScanInputs<T>&, const ScanBackward<T>&, const ScanSequence&, const ScanTask&,
              int64_t block, T* parameters, T* scratch);
  // Adds the partial sums of dB and dC over the blocks of each group, in order, for the tokens of
  // one task.
  void (*reduce)(const ScanSizes&, const ScanBackward<T>&, const ScanSequence&, const ScanTask&,
                 const ScanGroupView<T>& dB, const ScanGroupView<T>& dC);
};

namespace generic {
template <typename T>
const SelectiveScanKernels<T>& selective_scan_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
template <typename T>
const SelectiveScanKernels<T>& selective_scan_kernels();
}
namespace avx512 {
template <typename T>
const SelectiveScanKernels<T>& selective_scan_kernels();
}
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::ops
