// SSD backward on the CPU. Compiled once per instruction set (core/cpu/isa.h). No Torch.
//
// A unit of work is one sequence and a few heads of one group, as in the forward. It walks the
// chunks from last to first with dS, the gradient of the state that leaves the chunk, and S, the
// saved state that entered it. Square matrices are kept turned, [s][l] with s the source and l >= s
// the target token. With e = decay since start, t = decay until end, K = (B C^T) * decay between:
//   R   = X dY^T                                          G = R * decay between * dt_s
//   E   = t (B dS^T) + K dY                               dx = dt E + D dY
//   dB += t dt (X dS) + G C,   dC += e (dY S) + G^T B     summed over the heads of the unit
//   dS <- decay of the chunk * dS + (e dY)^T C
// The gradient a_l of token l's log decay adds up every path that crosses it, each term once:
//   a_l = sum over s < l <= j of W[s][j],  W = G * (B C^T)      source s and target j in the chunk
//       + sum over j >= l of e_j C_j (dY_j S)                   entering state, target j
//       + sum over s < l of t_s dt_s B_s (X_s dS)               source s, leaving state
//       + decay of the chunk * <dS, S>
// which is the row minus column sums of W, without the subtraction.
#include "ops/ssd/chunk.h"
#include "ops/ssd/ssd_kernel.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

template <typename T>
struct BackwardScratch {
  T* dstates;  // (heads, p, n)
  T* B;        // (q, n)
  T* C;        // (q, n)
  T* Ct;       // (n, q)
  T* scores;   // (q, q)
  T* dscores;  // (q, q): sum of G over the heads
  T* dB;       // (q, n)
  T* dC;       // (q, n)
  T* x;        // (q, p)
  T* dy;       // (q, p)
  T* dyt;      // (p, q)
  T* between;  // (q, q): decay between
  T* K;        // (q, q)
  T* R;        // (q, q): R, then G, then W
  T* E;        // (q, p)
  T* product;  // (q, n)
  T* state;    // (p, n): S with padding
  T* turned;   // (n, p): S or dS turned
  T* y;        // (q, p): what z multiplied
  T* square;   // (q, q)
};

template <typename T>
BackwardScratch<T> carve(int64_t heads, int64_t p, int64_t n, Carver<T>& carver) {
  const int64_t pp = padded<T>(p), np = padded<T>(n);
  BackwardScratch<T> s;
  s.dstates = carver.take(heads * pp * np);
  for (T** piece : {&s.B, &s.C, &s.Ct, &s.dB, &s.dC, &s.product}) *piece = carver.take(kQ * np);
  for (T** piece : {&s.scores, &s.dscores, &s.between, &s.K, &s.R, &s.square}) {
    *piece = carver.take(kQ * kQ);
  }
  for (T** piece : {&s.x, &s.dy, &s.dyt, &s.E, &s.y}) *piece = carver.take(kQ * pp);
  s.state = carver.take(pp * np);
  s.turned = carver.take(pp * np);
  return s;
}

template <typename T>
int64_t scratch_size(int64_t heads, int64_t p, int64_t n) {
  Carver<T> carver{nullptr};
  carve(heads, p, n, carver);
  return carver.used;
}

// First column that row s of an upper triangle needs: products read whole tiles of rows.
template <typename T>
int64_t first_column(int64_t s) {
  return s / kRowTile * kRowTile / kLanes<T> * kLanes<T>;
}

// between[s][l] = exp(sum[l] - sum[s]) for l >= s, zero before; K = between * scores.
template <typename T>
void mix(int64_t count, const Decays<T>& decays, const BackwardScratch<T>& m) {
  constexpr int kL = kLanes<T>;
  const int64_t rows = round_up(count, kRowTile), width = round_up(count, kL);
  for (int64_t s = 0; s < rows; ++s) {
    for (int64_t l = first_column<T>(s); l < width; l += kL) {
      T exponent[kL];
      for (int i = 0; i < kL; ++i) {
        const double difference = decays.sum[l + i] - decays.sum[s];
        exponent[i] = l + i >= s && l + i < count ? static_cast<T>(difference) : T(-1e4);
      }
      const Vec<T> factor = decay<T>(load<T>(exponent));
      store<T>(m.between + s * kQ + l, factor);
      store<T>(m.K + s * kQ + l, factor * load<T>(m.scores + s * kQ + l));
    }
  }
}

// R -> G, added to dscores; then W in R's place.
template <typename T>
void score_gradient(int64_t count, const Decays<T>& decays, const BackwardScratch<T>& m) {
  const int64_t width = round_up(count, kLanes<T>);
  for (int64_t s = 0; s < count; ++s) {
    for (int64_t l = first_column<T>(s); l < width; l += kLanes<T>) {
      const int64_t at = s * kQ + l;
      const Vec<T> G = load<T>(m.R + at) * load<T>(m.between + at) * decays.dt[s];
      store<T>(m.dscores + at, load<T>(m.dscores + at) + G);
      store<T>(m.R + at, G * load<T>(m.scores + at));
    }
  }
}

// a[l] += sum over s < l <= j of W[s][j]: a running sum of rows, of which the tail from l on
// counts.
template <typename T>
void add_crossings(int64_t count, const T* W, double* a) {
  constexpr int kL = kLanes<T>;
  T rows[kSsdChunk] = {};
  const int64_t width = round_up(count, kL);
  for (int64_t l = 1; l < count; ++l) {
    for (int64_t j = first_column<T>(l - 1); j < width; j += kL) {
      store<T>(rows + j, load<T>(rows + j) + load<T>(W + (l - 1) * kQ + j));
    }
    rows[l - 1] = 0;  // targets before l never count again
    Vec<T> total = {};
    for (int64_t j = l / kL * kL; j < width; j += kL) total += load<T>(rows + j);
    a[l] += sum<T>(total);
  }
}

// dz and the gradient of the ungated output, which replaces dy. y is recomputed.
template <typename T>
void through_gate(const SsdBackward<T>& unit, const SsdChunk& chunk, int64_t head,
                  const Decays<T>& decays, bool has_state, const BackwardScratch<T>& m) {
  const SsdInputs<T>& in = unit.in;
  const int64_t pp = padded<T>(in.p), np = padded<T>(in.n), count = chunk.count;
  if (has_state) {
    transpose<T>(pp, np, m.state, np, m.turned, pp);
    multiply<T>(Part::kAll, false, count, pp, np, m.C, np, m.turned, pp, m.y, pp);
    for (int64_t l = 0; l < count; ++l) scale_row<T>(m.y + l * pp, decays.since_start[l], pp);
  }
  // K is [s][l]; the rows of E hold dt x for the moment.
  zero(m.square, kQ * kQ);
  transpose<T>(count, count, m.K, kQ, m.square, kQ);
  for (int64_t s = 0; s < count; ++s) {
    copy_row<T>(m.E + s * pp, m.x + s * pp, decays.dt[s], pp, pp);
  }
  multiply<T>(Part::kLowerFactor, has_state, count, pp, count, m.square, kQ, m.E, pp, m.y, pp);
  for (int64_t l = 0; l < count; ++l) {
    const int64_t token = in.tokens[chunk.first + l];
    const T* z = in.z.at(token, head);
    T* dz = unit.dz.at(token, head);
    for (int64_t i = 0; i < in.p; i += kLanes<T>) {
      const int lanes = in.p - i < kLanes<T> ? static_cast<int>(in.p - i) : kLanes<T>;
      const Vec<T> gate = load_part<T>(z + i, lanes), dout = load<T>(m.dy + l * pp + i);
      Vec<T> y = load<T>(m.y + l * pp + i);
      if (in.D) y += load_part<T>(in.D + head * in.p + i, lanes) * load<T>(m.x + l * pp + i);
      store_part<T>(dz + i, dout * y * silu_derivative(gate), lanes);
      store<T>(m.dy + l * pp + i, dout * silu(gate));
    }
  }
}

// What reaches the chunk from the state that leaves it: E = t (B dS^T), dB, and the decay gradient.
template <typename T>
void from_leaving_state(const SsdInputs<T>& in, int64_t count, const Decays<T>& decays,
                        const T* dstate, const BackwardScratch<T>& m, double* a) {
  const int64_t pp = padded<T>(in.p), np = padded<T>(in.n);
  transpose<T>(pp, np, dstate, np, m.turned, pp);
  multiply<T>(Part::kAll, false, count, pp, np, m.B, np, m.turned, pp, m.E, pp);
  multiply<T>(Part::kAll, false, count, np, pp, m.x, pp, dstate, np, m.product, np);
  double before = 0;
  for (int64_t s = 0; s < count; ++s) {
    scale_row<T>(m.E + s * pp, decays.until_end[s], pp);
    const T share = decays.until_end[s] * decays.dt[s];
    a[s] += before;
    before += share * dot_row<T>(m.B + s * np, m.product + s * np, np);
    add_row<T>(m.dB + s * np, m.product + s * np, share, np);
  }
}

// What the state that entered gave to the chunk: dC and the decay gradient.
template <typename T>
void from_entering_state(const SsdInputs<T>& in, int64_t count, const Decays<T>& decays,
                         const BackwardScratch<T>& m, double* a) {
  const int64_t pp = padded<T>(in.p), np = padded<T>(in.n);
  multiply<T>(Part::kAll, false, count, np, pp, m.dy, pp, m.state, np, m.product, np);
  double behind = 0;
  for (int64_t l = count - 1; l >= 0; --l) {
    const T factor = decays.since_start[l];
    behind += factor * dot_row<T>(m.C + l * np, m.product + l * np, np);
    a[l] += behind;
    add_row<T>(m.dC + l * np, m.product + l * np, factor, np);
  }
}

// dx, ddt and the sums over tokens, from E and the decay gradient.
template <typename T>
void finish_head(const SsdBackward<T>& unit, const SsdChunk& chunk, int64_t head,
                 const Decays<T>& decays, const double* a, const BackwardScratch<T>& m) {
  const SsdInputs<T>& in = unit.in;
  const int64_t pp = padded<T>(in.p);
  for (int64_t l = 0; l < chunk.count; ++l) {
    const int64_t token = in.tokens[chunk.first + l];
    const T* x = m.x + l * pp;
    const T* dy = m.dy + l * pp;
    const T* E = m.E + l * pp;
    T* dx = unit.dx.at(token, head);
    for (int64_t i = 0; i < in.p; i += kLanes<T>) {
      const int lanes = in.p - i < kLanes<T> ? static_cast<int>(in.p - i) : kLanes<T>;
      Vec<T> v = decays.dt[l] * load<T>(E + i);
      if (in.D) v += load_part<T>(in.D + head * in.p + i, lanes) * load<T>(dy + i);
      store_part<T>(dx + i, v, lanes);
    }
    const double ddt = dot_row<T>(x, E, pp) + in.A[head] * a[l];
    const double draw = ddt * decays.slope[l];
    *unit.ddt.at(token, head) = static_cast<T>(draw);
    unit.dA[head] += a[l] * decays.dt[l];
    unit.ddt_bias[head] += draw;
  }
  if (!unit.dD) return;
  for (int64_t i = 0; i < in.p; i += kLanes<T>) {
    const int lanes = in.p - i < kLanes<T> ? static_cast<int>(in.p - i) : kLanes<T>;
    Vec<T> total = {};
    for (int64_t l = 0; l < chunk.count; ++l) {
      total += load<T>(m.x + l * pp + i) * load<T>(m.dy + l * pp + i);
    }
    T* dD = unit.dD + head * in.p + i;
    store_part<T>(dD, load_part<T>(dD, lanes) + total, lanes);
  }
}

template <typename T>
void head_chunk(const SsdBackward<T>& unit, const SsdChunk& chunk, int64_t head, bool has_dstate,
                T* dstate, const BackwardScratch<T>& m) {
  const SsdInputs<T>& in = unit.in;
  const int64_t p = in.p, n = in.n, pp = padded<T>(p), np = padded<T>(n), count = chunk.count;
  const bool has_state = chunk.state != kSsdNoState;
  Decays<T> decays;
  read_decays(in, chunk, head, decays);
  mix(count, decays, m);
  gather(in, chunk, in.x, head, p, m.x);
  if (unit.dy) {
    gather(in, chunk, unit.dy, head, p, m.dy);
  } else {
    zero(m.dy, kQ * pp);
  }
  if (has_state) {
    const T* from =
        chunk.state == kSsdInitialState ? in.initial : unit.saved + chunk.state * in.heads * p * n;
    load_state(p, n, from + head * p * n, m.state);
  }
  if (in.z) through_gate(unit, chunk, head, decays, has_state, m);

  double a[kSsdChunk] = {};
  transpose<T>(padded<T>(count), pp, m.dy, pp, m.dyt, kQ);
  multiply<T>(Part::kUpperResult, false, count, count, pp, m.x, pp, m.dyt, kQ, m.R, kQ);
  score_gradient(count, decays, m);
  add_crossings(count, m.R, a);
  if (has_dstate) from_leaving_state(in, count, decays, dstate, m, a);
  multiply<T>(Part::kUpperFactor, has_dstate, count, pp, count, m.K, kQ, m.dy, pp, m.E, pp);
  if (has_state) {
    from_entering_state(in, count, decays, m, a);
    if (has_dstate) {
      double whole = 0;
      for (int64_t i = 0; i < p; ++i) whole += dot_row<T>(dstate + i * np, m.state + i * np, np);
      whole *= decays.whole;
      for (int64_t l = 0; l < count; ++l) a[l] += whole;
      scale_row<T>(dstate, decays.whole, pp * np);
    }
    for (int64_t i = 0; i < p; ++i) {
      for (int64_t l = 0; l < count; l += kLanes<T>) {
        T* v = m.dyt + i * kQ + l;
        store<T>(v, load<T>(v) * load<T>(decays.since_start + l));
      }
    }
    multiply<T>(Part::kAllBackwards, has_dstate, pp, np, count, m.dyt, kQ, m.C, np, dstate, np);
  }
  finish_head(unit, chunk, head, decays, a, m);
}

// dB and dC of the chunk: the heads' sum of G through the products of C and B.
template <typename T>
void finish_chunk(const SsdBackward<T>& unit, const SsdChunk& chunk, const BackwardScratch<T>& m) {
  const SsdInputs<T>& in = unit.in;
  const int64_t np = padded<T>(in.n), count = chunk.count;
  multiply<T>(Part::kUpperFactor, true, count, np, count, m.dscores, kQ, m.C, np, m.dB, np);
  zero(m.square, kQ * kQ);
  transpose<T>(count, count, m.dscores, kQ, m.square, kQ);
  multiply<T>(Part::kLowerFactor, true, count, np, count, m.square, kQ, m.B, np, m.dC, np);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = in.tokens[chunk.first + i];
    const size_t bytes = sizeof(T) * static_cast<size_t>(in.n);
    std::memcpy(unit.dB.at(token, in.group), m.dB + i * np, bytes);
    std::memcpy(unit.dC.at(token, in.group), m.dC + i * np, bytes);
  }
}

template <typename T>
void run(const SsdBackward<T>& unit) {
  const SsdInputs<T>& in = unit.in;
  const int64_t p = in.p, n = in.n, pp = padded<T>(p), np = padded<T>(n);
  Carver<T> carver{unit.scratch};
  const BackwardScratch<T> m = carve(in.head_count, p, n, carver);
  bool has_dstate = unit.dlast_state != nullptr;
  for (int64_t i = 0; has_dstate && i < in.head_count; ++i) {
    load_state(p, n, unit.dlast_state + (in.head + i) * p * n, m.dstates + i * pp * np);
  }
  for (int64_t c = in.chunk_count - 1; c >= 0; --c) {
    const SsdChunk& chunk = in.chunks[c];
    gather(in, chunk, in.B, in.group, n, m.B);
    gather(in, chunk, in.C, in.group, n, m.C);
    transpose<T>(padded<T>(chunk.count), np, m.C, np, m.Ct, kQ);
    multiply<T>(Part::kUpperResult, false, chunk.count, chunk.count, np, m.B, np, m.Ct, kQ,
                m.scores, kQ);
    zero(m.dscores, kQ * kQ);
    zero(m.dB, kQ * np);
    zero(m.dC, kQ * np);
    for (int64_t i = 0; i < in.head_count; ++i) {
      head_chunk(unit, chunk, in.head + i, has_dstate, m.dstates + i * pp * np, m);
    }
    finish_chunk(unit, chunk, m);
    has_dstate = chunk.state != kSsdNoState;
  }
  if (!unit.dinitial) return;
  for (int64_t i = 0; i < in.head_count; ++i) {
    T* to = unit.dinitial + (in.head + i) * p * n;
    if (has_dstate) {
      store_state(p, n, m.dstates + i * pp * np, to);
    } else {
      zero(to, p * n);
    }
  }
}

}  // namespace

template <typename T>
const SsdBackwardKernels<T>& ssd_backward_kernels() {
  static constexpr SsdBackwardKernels<T> table{scratch_size<T>, run<T>};
  return table;
}
template const SsdBackwardKernels<float>& ssd_backward_kernels<float>();
template const SsdBackwardKernels<double>& ssd_backward_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
