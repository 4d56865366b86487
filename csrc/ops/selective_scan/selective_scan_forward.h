#pragma once
// The CPU forward pass over a given walk, which the op and its decode step share.

#include "ops/selective_scan/selective_scan_views.h"
#include "ops/selective_scan/selective_scan_walk.h"

namespace aspis::ops {

// y (b, l, d) of any floating dtype; `last` (slots, d, n) and `states` (b, l / 32, n, d) of the
// compute type, undefined where not wanted. tensors.initial may be `last` itself.
void run_scan_forward(const ScanTensors& tensors, const ScanWalk& walk, const at::Tensor& y,
                      const at::Tensor& last, const at::Tensor& states);

}  // namespace aspis::ops
