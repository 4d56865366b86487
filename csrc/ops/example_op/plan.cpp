#include "ops/example_op/plan.h"

#include <algorithm>

namespace aspis::ops {

ExampleOpPlan plan_example_op(int64_t rows, int64_t channels, int multiprocessors) {
  ExampleOpPlan plan{};
  plan.threads = 128;
  plan.channel_blocks = std::max<int64_t>(1, (channels + plan.threads - 1) / plan.threads);
  // About four blocks per multiprocessor, but never fewer than 32 rows for each.
  const int64_t wanted = std::max<int64_t>(1, 4 * multiprocessors / plan.channel_blocks);
  plan.rows_per_block = std::max<int64_t>(32, (rows + wanted - 1) / wanted);
  plan.row_blocks = std::max<int64_t>(1, (rows + plan.rows_per_block - 1) / plan.rows_per_block);
  plan.workspace_bytes = plan.row_blocks * channels * static_cast<int64_t>(sizeof(float));
  return plan;
}

}  // namespace aspis::ops
