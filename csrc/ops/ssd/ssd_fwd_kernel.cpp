// SSD forward on the CPU. Compiled once per instruction set (core/cpu/isa.h). No Torch.
//
// A unit of work is one sequence and a few heads of one group. It walks chunks of up to 64 tokens
// and keeps the heads' states, turned to (n, p), in cache:
//   scores = C B^T                                        once for all heads of the unit
//   Y      = decay since start * (C S) + (scores * decay between) (dt X)
//   S      = decay of the chunk * S + B^T (decay until end * dt X)
#include "ops/ssd/chunk.h"
#include "ops/ssd/ssd_kernel.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

template <typename T>
struct ForwardScratch {
  T* states;  // (heads, n, p)
  T* B;       // (q, n)
  T* Bt;      // (n, q)
  T* C;       // (q, n)
  T* scores;  // (q, q)
  T* mixing;  // (q, q)
  T* x;       // (q, p): dt x
  T* y;       // (q, p)
};

template <typename T>
ForwardScratch<T> carve(int64_t heads, int64_t p, int64_t n, Carver<T>& carver) {
  const int64_t pp = padded<T>(p), np = padded<T>(n);
  ForwardScratch<T> s;
  s.states = carver.take(heads * np * pp);
  s.B = carver.take(kQ * np);
  s.Bt = carver.take(np * kQ);
  s.C = carver.take(kQ * np);
  s.scores = carver.take(kQ * kQ);
  s.mixing = carver.take(kQ * kQ);
  s.x = carver.take(kQ * pp);
  s.y = carver.take(kQ * pp);
  return s;
}

template <typename T>
int64_t scratch_size(int64_t heads, int64_t p, int64_t n) {
  Carver<T> carver{nullptr};
  carve(heads, p, n, carver);
  return carver.used;
}

// mixing[l][s] = scores[l][s] exp(sum[l] - sum[s]) for s <= l, zero elsewhere.
template <typename T>
void mix(int64_t count, const Decays<T>& decays, const T* scores, T* mixing) {
  constexpr int kL = kLanes<T>;
  for (int64_t l = 0; l < round_up(count, kRowTile); ++l) {
    const int64_t width = round_up(l / kRowTile * kRowTile + kRowTile, kL);
    for (int64_t s = 0; s < width; s += kL) {
      T exponent[kL];
      for (int i = 0; i < kL; ++i) {
        const double difference = decays.sum[l] - decays.sum[s + i];
        exponent[i] = s + i <= l && l < count ? static_cast<T>(difference) : T(-1e4);
      }
      const Vec<T> factor = decay<T>(load<T>(exponent));
      store<T>(mixing + l * kQ + s, factor * load<T>(scores + l * kQ + s));
    }
  }
}

template <typename T>
void head_chunk(const SsdForward<T>& unit, const SsdChunk& chunk, int64_t head, bool has_state,
                T* state, const ForwardScratch<T>& s) {
  const SsdInputs<T>& in = unit.in;
  const int64_t pp = padded<T>(in.p), np = padded<T>(in.n), count = chunk.count;
  Decays<T> decays;
  read_decays(in, chunk, head, decays);
  mix(count, decays, s.scores, s.mixing);
  for (int64_t l = 0; l < count; ++l) {
    const T* x = in.x.at(in.tokens[chunk.first + l], head);
    copy_row<T>(s.x + l * pp, x, decays.dt[l], in.p, pp);
  }
  if (has_state) {
    multiply<T>(Part::kAll, false, count, pp, np, s.C, np, state, pp, s.y, pp);
    for (int64_t l = 0; l < count; ++l) scale_row<T>(s.y + l * pp, decays.since_start[l], pp);
  }
  multiply<T>(Part::kLowerFactor, has_state, count, pp, count, s.mixing, kQ, s.x, pp, s.y, pp);
  for (int64_t l = 0; l < count; ++l) {
    const int64_t token = in.tokens[chunk.first + l];
    finish_row<T>(in.p, s.y + l * pp, in.x.at(token, head), in.D ? in.D + head * in.p : nullptr,
                  in.z ? in.z.at(token, head) : nullptr, unit.y.at(token, head));
    scale_row<T>(s.x + l * pp, decays.until_end[l], pp);
  }
  if (has_state) scale_row<T>(state, decays.whole, np * pp);
  multiply<T>(Part::kAll, has_state, np, pp, count, s.Bt, kQ, s.x, pp, state, pp);
}

template <typename T>
void run(const SsdForward<T>& unit) {
  const SsdInputs<T>& in = unit.in;
  const int64_t p = in.p, n = in.n, pp = padded<T>(p), np = padded<T>(n);
  Carver<T> carver{unit.scratch};
  const ForwardScratch<T> s = carve(in.head_count, p, n, carver);
  bool has_state = false;
  zero(s.states, in.head_count * np * pp);
  if (in.initial) {
    has_state = true;
    for (int64_t i = 0; i < in.head_count; ++i) {
      load_state_turned(p, n, in.initial + (in.head + i) * p * n, s.states + i * np * pp);
    }
  }
  for (int64_t c = 0; c < in.chunk_count; ++c) {
    const SsdChunk& chunk = in.chunks[c];
    if (chunk.state == kSsdNoState) has_state = false;
    gather(in, chunk, in.B, in.group, n, s.B);
    gather(in, chunk, in.C, in.group, n, s.C);
    transpose<T>(padded<T>(chunk.count), np, s.B, np, s.Bt, kQ);
    multiply<T>(Part::kLowerResult, false, chunk.count, chunk.count, np, s.C, np, s.Bt, kQ,
                s.scores, kQ);
    for (int64_t i = 0; i < in.head_count; ++i) {
      T* state = s.states + i * np * pp;
      if (unit.saved && chunk.state >= 0) {
        transpose<T>(n, p, state, pp, unit.saved + (chunk.state * in.heads + in.head + i) * p * n,
                     n);
      }
      head_chunk(unit, chunk, in.head + i, has_state, state, s);
    }
    has_state = true;
  }
  if (!unit.last_state) return;
  for (int64_t i = 0; i < in.head_count; ++i) {
    transpose<T>(n, p, s.states + i * np * pp, pp, unit.last_state + (in.head + i) * p * n, n);
  }
}

}  // namespace

template <typename T>
const SsdForwardKernels<T>& ssd_forward_kernels() {
  static constexpr SsdForwardKernels<T> table{scratch_size<T>, run<T>};
  return table;
}
template const SsdForwardKernels<float>& ssd_forward_kernels<float>();
template const SsdForwardKernels<double>& ssd_forward_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
