// SSD decode on the CPU. Compiled once per instruction set (core/cpu/isa.h). No Torch.
#include "core/cpu/vec.h"
#include "ops/ssd/ssd_kernel.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

// One head of one row. Each state row meets B and C once per token: S = decay S + dt x B, y = S C.
template <typename T>
void run(const SsdStep<T>& unit) {
  const int64_t n = unit.n, full = n / kLanes<T> * kLanes<T>;
  const int rest = static_cast<int>(n - full);
  for (int64_t t = 0; t < unit.steps; ++t) {
    const T* B = unit.B.at(t, 0);
    const T* C = unit.C.at(t, 0);
    const T* x = unit.x.at(t, 0);
    T* y = unit.y.at(t, 0);
    for (int64_t i = 0; i < unit.p; ++i) {
      T* state = unit.state + i * n;
      const T input = unit.dt[t] * x[i];
      Vec<T> total = {};
      for (int64_t k = 0; k < full; k += kLanes<T>) {
        const Vec<T> v = unit.decay[t] * load<T>(state + k) + input * load<T>(B + k);
        store<T>(state + k, v);
        total += v * load<T>(C + k);
      }
      if (rest > 0) {
        const Vec<T> v =
            unit.decay[t] * load_part<T>(state + full, rest) + input * load_part<T>(B + full, rest);
        store_part<T>(state + full, v, rest);
        total += v * load_part<T>(C + full, rest);
      }
      y[i] = sum<T>(total) + (unit.D ? unit.D[i] * x[i] : T(0));
    }
    if (!unit.z) continue;
    const T* z = unit.z.at(t, 0);
    for (int64_t i = 0; i < unit.p; i += kLanes<T>) {
      const int lanes = unit.p - i < kLanes<T> ? static_cast<int>(unit.p - i) : kLanes<T>;
      store_part<T>(y + i, load_part<T>(y + i, lanes) * silu(load_part<T>(z + i, lanes)), lanes);
    }
  }
}

}  // namespace

template <typename T>
const SsdStepKernels<T>& ssd_step_kernels() {
  static constexpr SsdStepKernels<T> table{run<T>};
  return table;
}
template const SsdStepKernels<float>& ssd_step_kernels<float>();
template const SsdStepKernels<double>& ssd_step_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
