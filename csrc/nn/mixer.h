#pragma once
// The contract of a layer's inner block: what stands between the pre-norm and the residual
// addition. Mamba-1, Mamba-2, attention and MLP fulfil it; the models know nothing else of them.
//
// Laws, tested for every kind by one generic test: step by step = forward; packed = apart; every
// parameter gets a gradient; the config survives a round trip.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/module.h"

namespace aspis::nn {

// Which implementation of the sequence ops a model calls. kReference runs on any device, slowly,
// and is only ever chosen by the user.
enum class OpsBackend { kKernels, kReference };

// Documents packed in the rows of a batch (ops/documents.h). Both absent: each row is one document.
struct Segments {
  std::optional<at::Tensor> seq_idx;     // (b, l) int32, negative = padding
  std::optional<at::Tensor> cu_seqlens;  // (docs + 1) int32, b = 1
};

// State carried from token to token. Each mixer derives its own.
class MixerCache {
 public:
  virtual ~MixerCache() = default;
};

// Sizes and costs for one layer, for tables and plans.
struct MixerFacts {
  int64_t state_bytes_per_sequence = 0;  // fixed part of the cache at the given element sizes
  int64_t cache_bytes_per_token = 0;     // part that grows with the context (KV)
  double forward_flops_per_token = 0;    // Megatron's hybrid formula (docs/architecture.md)
};

class Mixer : public Module {
 public:
  // hidden (b, l, d_model) -> (b, l, d_model)
  virtual at::Tensor forward(const at::Tensor& hidden, const Segments& segments) const = 0;

  // A cache for b sequences, before the first token, on the device of the parameters.
  virtual std::unique_ptr<MixerCache> make_cache(int64_t b) const = 0;

  // Further tokens: hidden (b, t, d_model) -> (b, t, d_model), t >= 1; the cache moves on by t
  // tokens. Equal to the last t rows of forward over everything the cache has seen. No gradients.
  virtual at::Tensor step(const at::Tensor& hidden, MixerCache& cache) const = 0;

  // The ops (names of ops/op_table.h) that forward and backward call: decides which devices can run
  // it.
  virtual std::vector<std::string> ops_used() const = 0;

  // At context length seq_len, with KV elements of kv_bytes and states of state_bytes.
  virtual MixerFacts facts(int64_t seq_len, int64_t kv_bytes, int64_t state_bytes) const = 0;
};

}  // namespace aspis::nn
