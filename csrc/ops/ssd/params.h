#pragma once
// What the kernels need to know, without Torch and without CUDA. Strides count elements. Every
// pointer is already at the row (x, dt, B, C, z and what has their shape) or at the sequence
// (states) that is walked.

#include <cstdint>

namespace aspis::ops {

// Tokens that one matrix product covers. States are saved where one chunk ends and the next begins.
inline constexpr int kSsdChunk = 64;

// Up to kSsdChunk tokens of one document, padding left out. `first` indexes the list of tokens of
// the sequence; `state` says what enters: nothing, the initial state, or the state saved in that
// slot.
inline constexpr int32_t kSsdNoState = -1;
inline constexpr int32_t kSsdInitialState = -2;
struct SsdChunk {
  int64_t first;
  int32_t count;
  int32_t state;
};

// (l, h | g, p | n) with the last dimension dense.
template <typename T>
struct SsdView {
  T* data = nullptr;
  int64_t token = 0;
  int64_t head = 0;

  T* at(int64_t l, int64_t h) const { return data + l * token + h * head; }
  explicit operator bool() const { return data != nullptr; }
};

// One unit of work: `head_count` heads of one group walk one sequence.
template <typename T>
struct SsdInputs {
  int64_t heads = 0, p = 0, n = 0;
  int64_t head = 0, head_count = 0, group = 0;
  bool softplus = false;
  T dt_min = 0, dt_max = 0;         // infinite where there is no limit
  const int64_t* tokens = nullptr;  // positions in walking order
  const SsdChunk* chunks = nullptr;
  int64_t chunk_count = 0;
  SsdView<const T> x;          // (l, h, p)
  SsdView<const T> dt;         // (l, h)
  SsdView<const T> B, C;       // (l, g, n)
  SsdView<const T> z;          // (l, h, p) or none
  const T* A = nullptr;        // (h)
  const T* D = nullptr;        // (h, p) or none
  const T* dt_bias = nullptr;  // (h) or none
  const T* initial = nullptr;  // (h, p, n) or none
};

template <typename T>
struct SsdForward {
  SsdInputs<T> in;
  SsdView<T> y;             // (l, h, p)
  T* saved = nullptr;       // (slots, h, p, n) or none
  T* last_state = nullptr;  // (h, p, n) or none
  T* scratch = nullptr;     // as many numbers as fwd_scratch says
};

template <typename T>
struct SsdBackward {
  SsdInputs<T> in;
  const T* saved = nullptr;        // (slots, h, p, n)
  SsdView<const T> dy;             // (l, h, p) or none: zero
  const T* dlast_state = nullptr;  // (h, p, n) or none: zero
  SsdView<T> dx;                   // (l, h, p)
  SsdView<T> ddt;                  // (l, h)
  SsdView<T> dB, dC;               // (l, g, n): the share of these heads
  SsdView<T> dz;                   // (l, h, p) if z
  double* dA = nullptr;            // (h): the share of this sequence, as the two below
  double* ddt_bias = nullptr;      // (h)
  T* dD = nullptr;                 // (h, p) if D
  T* dinitial = nullptr;           // (h, p, n) if initial
  T* scratch = nullptr;
};

// Decode of one head of one row: `steps` tokens, the state (p, n) in place.
template <typename T>
struct SsdStep {
  int64_t p = 0, n = 0, steps = 0;
  T* state = nullptr;        // (p, n)
  const T* decay = nullptr;  // (steps): exp(dt A)
  const T* dt = nullptr;     // (steps)
  SsdView<const T> x, z;     // (t, h, p), at this row and head
  SsdView<const T> B, C;     // (t, g, n), at this row and group
  const T* D = nullptr;      // (p) or none
  SsdView<T> y;              // (t, h, p), at this row and head
};

}  // namespace aspis::ops
