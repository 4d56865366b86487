#pragma once
// What the kernels need to know, without Torch and without CUDA. Strides count elements.

#include <cstdint>

namespace aspis::ops {

struct ExampleOpParams {
  int64_t rows;      // b * l
  int64_t channels;  // d
  double scale;
};

}  // namespace aspis::ops
