#pragma once
// What the CPU kernels need to know, without Torch. Strides count elements. Structs of data only:
// this file is included by code of several instruction sets, which may not share functions.

#include <cstdint>

namespace aspis::ops {

// Channels in one unit of work. A constant, so that sums over channels do not depend on the number
// of threads.
inline constexpr int64_t kScanChannelBlock = 64;
// Tokens between two saved states; also the stretch that backward recomputes at a time.
inline constexpr int64_t kScanSaveEvery = 32;
// Tokens of one unit of work in backward, a multiple of kScanSaveEvery.
inline constexpr int64_t kScanTaskTokens = 128;

// A (b, l, d) tensor; no data means "absent": zeros to a reader, nothing to do to a writer.
template <typename T>
struct ScanView {
  T* data = nullptr;
  int64_t row = 0, time = 0, channel = 0;
};

// A (b, l, g, n) tensor.
template <typename T>
struct ScanGroupView {
  T* data = nullptr;
  int64_t row = 0, time = 0, group = 0, state = 0;
};

// A (slots, d, n) tensor of states.
template <typename T>
struct ScanStateView {
  T* data = nullptr;
  int64_t slot = 0, channel = 0, state = 0;
};

struct ScanSizes {
  int64_t channels = 0;          // d
  int64_t states = 0;            // n
  int64_t groups = 0;            // g
  int64_t blocks_per_group = 0;  // of at most kScanChannelBlock channels
};

template <typename T>
struct ScanInputs {
  ScanSizes sizes;
  ScanView<const T> x, delta, z;
  ScanGroupView<const T> B, C;
  ScanStateView<const T> A;       // (1, d, n)
  const T* D = nullptr;           // (d)
  const T* delta_bias = nullptr;  // (d)
  bool softplus = false;
  ScanStateView<const T> initial;
};

// What one carried state walks through: tokens in walking order, padding left out.
struct ScanSequence {
  int64_t row = 0;
  int64_t initial = -1;  // slot of the state it starts from, -1 for zeros
  int64_t last = -1;     // slot that receives the final state, -1 for none
  int64_t saved = 0;     // first of its saved states, one before each stretch but the first
  int64_t carry = -1;    // backward: where the state's gradient waits between two tasks
  int64_t count = 0;     // tokens
  const int64_t* positions = nullptr;  // (count) index on the l axis
  const uint8_t* resets = nullptr;     // (count) 1: the state is zero before this token
};

template <typename T>
struct ScanForward {
  ScanView<T> y;
  ScanStateView<T> last;
  T* saved = nullptr;  // (stretches, n, d), or null when nothing is saved
};

// Tokens [begin, end) of one sequence; the gradients of their B and C go to rows `partial`... of
// the partial sums.
struct ScanTask {
  int64_t sequence = 0;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t partial = 0;
};

template <typename T>
struct ScanBackward {
  ScanView<const T> dy;
  ScanStateView<const T> dlast;
  const T* saved = nullptr;  // as ScanForward::saved
  ScanView<T> dx, ddelta, dz;
  ScanStateView<T> dinitial;
  T* carry = nullptr;  // (carries, n, d)
  T* dB = nullptr;     // (blocks, partial_tokens, n), overwritten
  T* dC = nullptr;     // (blocks, partial_tokens, n), overwritten
  int64_t partial_tokens = 0;
};

}  // namespace aspis::ops
