#pragma once
// What the norm kernels need to know, without Torch and without CUDA. Strides count elements.

#include <cstdint>

namespace aspis::ops {

struct RmsNormParams {
  int64_t rows;        // product of the leading dimensions
  int64_t groups;      // per row
  int64_t group_size;  // channels = groups * group_size
  double eps;
  bool norm_before_gate;  // only read where there is a gate
};

}  // namespace aspis::ops
