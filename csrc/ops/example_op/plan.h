#pragma once
// Sizes and device facts -> launch shape and workspace. A pure function, tested without a GPU.

#include <cstdint>

namespace aspis::ops {

struct ExampleOpPlan {
  int threads;  // per block; one thread per channel
  int64_t channel_blocks;
  int64_t row_blocks;  // backward: each block sums its rows into one row of the workspace
  int64_t rows_per_block;
  int64_t workspace_bytes;  // (row_blocks, d) floats
};

ExampleOpPlan plan_example_op(int64_t rows, int64_t channels, int multiprocessors);

}  // namespace aspis::ops
