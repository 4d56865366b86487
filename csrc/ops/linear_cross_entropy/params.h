#pragma once
// What the row kernel needs to know and how tokens are cut into chunks, without Torch and without
// CUDA.

#include <cstdint>

namespace aspis::ops {

struct CrossEntropyParams {
  int64_t vocabulary;
  double logit_scale;
  double label_smoothing;
  double z_loss;
};

// Tokens whose logits are held at once. About 2^20 logits suit the caches, but fewer than 64 rows
// starve the matrix products, and never more than 2^23 logits (32 MiB of float32) unless one row
// alone is longer. The number depends on the vocabulary alone, so that sums over chunks do not
// depend on the machine.
constexpr int64_t tokens_per_chunk(int64_t vocabulary) {
  const int64_t v = vocabulary > 1 ? vocabulary : 1;
  int64_t tokens = (int64_t{1} << 20) / v;
  if (tokens < 256) tokens = 256;
  const int64_t most = (int64_t{1} << 23) / v;
  if (tokens > most) tokens = most;
  return tokens > 1 ? tokens : 1;
}

}  // namespace aspis::ops
