#pragma once
// One forward and one backward of every op on a small random input, against its reference in
// double: what `aspis doctor` prints. It answers whether this build works on this machine; the
// tests prove the laws.

#include <c10/core/Device.h>

#include <string>
#include <vector>

namespace aspis::ops {

struct SelfCheck {
  std::string op;
  std::string backend;        // "cpu avx512", "cuda", or "no kernel"
  double forward_error = 0;   // largest relative error of an output, in norm
  double backward_error = 0;  // largest relative error of a gradient; 0 for inference-only ops
  bool passed = false;        // both within 1e-5 (float32 inputs)
  std::string problem;        // what was thrown, if anything was
};

std::vector<SelfCheck> self_check(c10::Device device);

}  // namespace aspis::ops
