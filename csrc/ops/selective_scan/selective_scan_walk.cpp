#include "ops/selective_scan/selective_scan_walk.h"

#include <algorithm>

#include "ops/documents.h"

namespace aspis::ops {
namespace {

// Once all tokens are listed: pointers, saved states and carries of each sequence.
void finish(ScanWalk& walk) {
  int64_t token = 0, saved = 0;
  for (ScanSequence& sequence : walk.sequences) {
    sequence.positions = walk.positions.data() + token;
    sequence.resets = walk.resets.data() + token;
    token += sequence.count;
    sequence.saved = saved;
    saved += sequence.count > 0 ? (sequence.count - 1) / kScanSaveEvery : 0;
    if (sequence.count > kScanTaskTokens) sequence.carry = walk.carries++;
  }
}

}  // namespace

ScanWalk walk_documents(const SelectiveScanArgs& args) {
  const Documents documents = list_documents("selective_scan", args.x.size(0), args.x.size(1),
                                             args.seq_idx, args.cu_seqlens, args.reverse);
  ScanWalk walk;
  walk.has_padding = documents.has_padding;
  for (const Sequence& sequence : documents.sequences) {
    ScanSequence out;
    out.row = sequence.row;
    out.initial = out.last = sequence.state;
    for (const Run& run : sequence.runs) {
      for (int64_t i = 0; i < run.end - run.begin; ++i) {
        const bool reset = i == 0 && run.starts_document && out.count > 0;
        walk.positions.push_back(args.reverse ? run.end - 1 - i : run.begin + i);
        walk.resets.push_back(reset ? 1 : 0);
      }
      out.count += run.end - run.begin;
    }
    walk.sequences.push_back(out);
  }
  finish(walk);
  return walk;
}

ScanWalk walk_rows(int64_t tokens, const std::vector<int64_t>& src,
                   const std::vector<int64_t>& dst) {
  ScanWalk walk;
  for (size_t row = 0; row < src.size(); ++row) {
    if (src[row] < 0) {
      walk.has_padding = true;
      continue;
    }
    ScanSequence out;
    out.row = static_cast<int64_t>(row);
    out.initial = src[row];
    out.last = dst[row];
    out.count = tokens;
    for (int64_t t = 0; t < tokens; ++t) {
      walk.positions.push_back(t);
      walk.resets.push_back(0);
    }
    walk.sequences.push_back(out);
  }
  finish(walk);
  return walk;
}

std::vector<ScanWave> plan_waves(const ScanWalk& walk) {
  std::vector<ScanWave> waves;
  int64_t longest = 0;
  for (const ScanSequence& sequence : walk.sequences) longest = std::max(longest, sequence.count);
  const int64_t rounds = std::max<int64_t>(1, (longest + kScanTaskTokens - 1) / kScanTaskTokens);
  // Round r holds the r-th task from the end of every sequence that has one.
  for (int64_t round = 0; round < rounds; ++round) {
    bool new_wave = true;
    int64_t slot_tokens = 0;
    for (size_t i = 0; i < walk.sequences.size(); ++i) {
      const int64_t count = walk.sequences[i].count;
      const int64_t tasks = std::max<int64_t>(1, (count + kScanTaskTokens - 1) / kScanTaskTokens);
      if (round >= tasks) continue;
      const int64_t begin = (tasks - 1 - round) * kScanTaskTokens;
      const int64_t end = std::min(count, begin + kScanTaskTokens);
      const bool new_slot = new_wave || slot_tokens + end - begin > kScanTaskTokens;
      if (new_wave || (new_slot && waves.back().slots.size() == size_t{kScanWaveSlots})) {
        waves.emplace_back();
        new_wave = false;
      }
      if (new_slot) {
        waves.back().slots.emplace_back();
        slot_tokens = 0;
      }
      waves.back().slots.back().push_back(
          {static_cast<int64_t>(i), begin, end, waves.back().tokens});
      waves.back().tokens += end - begin;
      slot_tokens += end - begin;
    }
  }
  return waves;
}

}  // namespace aspis::ops
