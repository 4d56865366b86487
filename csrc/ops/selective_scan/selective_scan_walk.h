#pragma once
// How the CPU kernels cut (b, l) into sequences of tokens, and backward into tasks, slots and
// waves.

#include <vector>

#include "ops/selective_scan/params.h"
#include "ops/selective_scan/selective_scan.h"

namespace aspis::ops {

// Sequences point into the arrays beside them, so the struct moves but does not copy.
struct ScanWalk {
  std::vector<ScanSequence> sequences;
  std::vector<int64_t> positions;  // of all sequences
  std::vector<uint8_t> resets;
  int64_t carries = 0;  // sequences longer than one task
  bool has_padding = false;

  ScanWalk() = default;
  ScanWalk(ScanWalk&&) = default;
  ScanWalk& operator=(ScanWalk&&) = default;
};

// Initial slots are set whether or not there is an initial state (a view without data gives zeros).
// Refuses wrong cu_seqlens.
ScanWalk walk_documents(const SelectiveScanArgs& args);

// Rows of t tokens each, without documents, for the step op. Row i reads slot src[i] and writes
// slot dst[i]; rows with a negative src are left out.
ScanWalk walk_rows(int64_t tokens, const std::vector<int64_t>& src,
                   const std::vector<int64_t>& dst);

// Tasks that run one after the other on one thread, at most kScanTaskTokens tokens.
using ScanSlot = std::vector<ScanTask>;
// Slots that run side by side. Tasks of one sequence lie in different waves, its last tokens first.
struct ScanWave {
  std::vector<ScanSlot> slots;
  int64_t tokens = 0;
};
inline constexpr int64_t kScanWaveSlots = 8;

std::vector<ScanWave> plan_waves(const ScanWalk& walk);

}  // namespace aspis::ops
