#pragma once
// What the kernels need to know, without Torch and without CUDA. Strides count elements.

#include <cstdint>

namespace aspis::ops {

struct CausalConv1dParams {
  int64_t channels;  // d
  int64_t width;     // w
  bool silu;
};

// A stretch of one document for the backward kernel. A document of n tokens is seen as its extended
// sequence: the w - 1 rows before its start (initial state or zeros), then its tokens in walking
// order, n + w - 1 rows. Output i reads the rows i ... i + w - 1 of it.
template <typename T>
struct CausalConv1dBwdChunk {
  const T* const* rows;  // n + w - 1 inputs of the extended sequence
  const T* const* dy;    // n gradients of outputs; null: all zero
  const T* dlast;        // (w - 1, d) gradient of the last w - 1 rows; null: zero
  T* const* dx;          // n + w - 1 gradients to write; a null row is not wanted
  int64_t tokens;        // n
  int64_t begin;         // rows [begin, end) of the extended sequence are this chunk's
  int64_t end;
};

}  // namespace aspis::ops
