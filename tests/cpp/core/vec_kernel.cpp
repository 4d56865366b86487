#include "vec_kernel.h"

#include "core/cpu/vec.h"

namespace aspis::test::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

template <typename F>
void map(const float* x, float* y, int64_t count, F f) {
  for (int64_t i = 0; i < count; i += kLanes<float>) {
    const int part = count - i < kLanes<float> ? static_cast<int>(count - i) : kLanes<float>;
    store_part<float>(y + i, f(load_part<float>(x + i, part)), part);
  }
}

}  // namespace

const VecTable& vec_table() {
  static constexpr VecTable table{
      [](const float* x, float* y, int64_t n) {
        map(x, y, n, [](FloatVector v) { return exp(v); });
      },
      [](const float* x, float* y, int64_t n) {
        map(x, y, n, [](FloatVector v) { return log1p_unit(v); });
      },
      [](const float* x, float* y, int64_t n) {
        map(x, y, n, [](FloatVector v) { return softplus(v); });
      },
      [](const float* x, float* y, int64_t n) {
        map(x, y, n, [](FloatVector v) { return silu_derivative(v); });
      },
      [](const float* x) { return cpu::ASPIS_ISA::sum<float>(load<float>(x)); },
      kLanes<float>};
  return table;
}

}  // namespace aspis::test::ASPIS_ISA
