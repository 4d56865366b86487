#pragma once
// core/cpu/vec.h's functions over arrays, for the test: compiled once per instruction set like a
// kernel.

#include <cstdint>

namespace aspis::test {

struct VecTable {
  void (*exp)(const float* x, float* y, int64_t count);
  void (*log1p)(const float* x, float* y, int64_t count);
  void (*softplus)(const float* x, float* y, int64_t count);
  void (*silu_derivative)(const float* x, float* y, int64_t count);
  float (*sum)(const float* x);  // of one vector
  int lanes;
};

namespace generic {
const VecTable& vec_table();
}
#if defined(__x86_64__)
namespace avx2 {
const VecTable& vec_table();
}
namespace avx512 {
const VecTable& vec_table();
}
#else
namespace avx2 = generic;
namespace avx512 = generic;
#endif

}  // namespace aspis::test
