// Compiled once per instruction set (core/cpu/isa.h). No Torch, no standard library templates.
//
// Lanes are channels: a vector holds one state index of kLanes neighbouring channels, B and C are
// broadcast, and a loop runs over the states. Per-channel arrays with states are laid out (vectors,
// n, lanes), tiles of activations (tokens, kScanChannelBlock). Channels beyond the block's last are
// zero lanes: A = 0 gives them a decay of one, x = 0 and dy = 0 keep their states and gradients at
// zero.
#include "ops/selective_scan/selective_scan_kernel.h"

#include "core/cpu/vec.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

constexpr int64_t kRow = kScanChannelBlock;

// Channels [first, first + count) of one group.
struct Channels {
  int64_t group, first, count;
};

Channels channels_of(const ScanSizes& sizes, int64_t block) {
  const int64_t per_group = sizes.channels / sizes.groups;
  const int64_t group = block / sizes.blocks_per_group;
  const int64_t offset = block % sizes.blocks_per_group * kScanChannelBlock;
  const int64_t left = per_group - offset;
  return {group, group * per_group + offset, left < kScanChannelBlock ? left : kScanChannelBlock};
}

// Some tokens of one sequence.
struct Tokens {
  int64_t row, count;
  const int64_t* positions;
  const uint8_t* resets;
};

Tokens tokens_of(const ScanSequence& sequence, int64_t begin, int64_t end) {
  return {sequence.row, end - begin, sequence.positions + begin, sequence.resets + begin};
}

// Scratch of one unit. Taken in one order by forward and backward; without a base it only counts.
template <typename T>
struct Scratch {
  T* base;
  int64_t used = 0;

  T* take(int64_t count) {
    T* p = base ? base + used : nullptr;
    used += (count + 15) / 16 * 16;
    return p;
  }
};

template <typename T>
struct Workspace {
  T *x, *delta, *dt, *dtx, *z, *y;  // (tokens, channels): delta with its bias, dt after softplus
  T *dy, *dout, *dx, *ddelta, *dz;  // (tokens, channels): dy is the gradient before the gate
  T *B, *C;                         // (tokens, n)
  T *A, *h, *g, *dA;                // (vectors, n, lanes)
  T *D, *bias, *dD, *dbias;         // (channels)
  T *decay, *carried;               // (tokens, n, lanes): a, and a * h of the token before
  T *dB, *dC;                       // (tokens, n, lanes)

  Workspace(Scratch<T>& s, int64_t n) {
    constexpr int64_t tokens = kScanSaveEvery;
    T** const tiles[] = {&x, &delta, &dt, &dtx, &z, &y, &dy, &dout, &dx, &ddelta, &dz};
    T** const groups[] = {&B, &C};
    T** const states[] = {&A, &h, &g, &dA};
    T** const vectors[] = {&D, &bias, &dD, &dbias};
    T** const kept[] = {&decay, &carried, &dB, &dC};
    for (T** p : tiles) *p = s.take(tokens * kRow);
    for (T** p : groups) *p = s.take(tokens * n);
    for (T** p : states) *p = s.take(kRow * n);
    for (T** p : vectors) *p = s.take(kRow);
    // sum_each reads whole groups of kLanes vectors
    for (T** p : kept) *p = s.take((tokens * n + kLanes<T>)*kLanes<T>);
  }
};

template <typename T>
void fill_zero(T* p, int64_t count) {
  std::memset(p, 0, sizeof(T) * static_cast<size_t>(count));
}

// Channels in whole vectors.
template <typename T>
int64_t padded(const Channels& channels) {
  return (channels.count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <typename T>
void load_tile(T* tile, const ScanView<const T>& view, const Tokens& tokens,
               const Channels& channels) {
  if (!view.data) return fill_zero(tile, tokens.count * kRow);
  const T* base = view.data + tokens.row * view.row + channels.first * view.channel;
  const int64_t count = channels.count, whole = count / kLanes<T> * kLanes<T>;
  if (view.channel == 1) {
    for (int64_t t = 0; t < tokens.count; ++t) {
      const T* from = base + tokens.positions[t] * view.time;
      T* to = tile + t * kRow;
      for (int64_t c = 0; c < whole; c += kLanes<T>) store<T>(to + c, load<T>(from + c));
      if (whole < count) store<T>(to + whole, load_part<T>(from + whole, int(count - whole)));
    }
    return;
  }
  for (int64_t c = 0; c < count; ++c) {
    const T* from = base + c * view.channel;
    for (int64_t t = 0; t < tokens.count; ++t)
      tile[t * kRow + c] = from[tokens.positions[t] * view.time];
  }
  for (int64_t c = count; c < padded<T>(channels); ++c) {
    for (int64_t t = 0; t < tokens.count; ++t) tile[t * kRow + c] = 0;
  }
}

template <typename T>
void store_tile(const T* tile, const ScanView<T>& view, const Tokens& tokens,
                const Channels& channels) {
  if (!view.data) return;
  T* base = view.data + tokens.row * view.row + channels.first * view.channel;
  const int64_t count = channels.count, whole = count / kLanes<T> * kLanes<T>;
  if (view.channel == 1) {
    for (int64_t t = 0; t < tokens.count; ++t) {
      T* to = base + tokens.positions[t] * view.time;
      const T* from = tile + t * kRow;
      for (int64_t c = 0; c < whole; c += kLanes<T>) store<T>(to + c, load<T>(from + c));
      for (int64_t c = whole; c < count; ++c) to[c] = from[c];
    }
    return;
  }
  for (int64_t c = 0; c < count; ++c) {
    T* to = base + c * view.channel;
    for (int64_t t = 0; t < tokens.count; ++t)
      to[tokens.positions[t] * view.time] = tile[t * kRow + c];
  }
}

template <typename T>
void load_group_tile(T* tile, const ScanGroupView<const T>& view, const Tokens& tokens,
                     int64_t group, int64_t n) {
  const T* base = view.data + tokens.row * view.row + group * view.group;
  for (int64_t t = 0; t < tokens.count; ++t) {
    const T* from = base + tokens.positions[t] * view.time;
    for (int64_t s = 0; s < n; ++s) tile[t * n + s] = from[s * view.state];
  }
}

// (d, n) of one slot -> (vectors, n, lanes); zeros without a slot.
template <typename T>
void load_states(T* to, const ScanStateView<const T>& view, int64_t slot, const Channels& channels,
                 int64_t n) {
  fill_zero(to, padded<T>(channels) * n);
  if (!view.data || slot < 0) return;
  const T* base = view.data + slot * view.slot + channels.first * view.channel;
  for (int64_t c = 0; c < channels.count; ++c) {
    T* lane = to + c / kLanes<T> * kLanes<T> * n + c % kLanes<T>;
    for (int64_t s = 0; s < n; ++s) lane[s * kLanes<T>] = base[c * view.channel + s * view.state];
  }
}

template <typename T>
void store_states(const T* from, const ScanStateView<T>& view, int64_t slot,
                  const Channels& channels, int64_t n) {
  if (!view.data || slot < 0) return;
  T* base = view.data + slot * view.slot + channels.first * view.channel;
  for (int64_t c = 0; c < channels.count; ++c) {
    const T* lane = from + c / kLanes<T> * kLanes<T> * n + c % kLanes<T>;
    for (int64_t s = 0; s < n; ++s) base[c * view.channel + s * view.state] = lane[s * kLanes<T>];
  }
}

// The op's own (n, d) layout, channels innermost, for saved states, carries and sums of parameters.
template <typename T>
void load_transposed(T* to, const T* from, const ScanSizes& sizes, const Channels& channels) {
  for (int64_t c = 0; c < channels.count; c += kLanes<T>) {
    const int64_t left = channels.count - c;
    for (int64_t s = 0; s < sizes.states; ++s) {
      const T* p = from + s * sizes.channels + channels.first + c;
      store<T>(to + c * sizes.states + s * kLanes<T>,
               left >= kLanes<T> ? load<T>(p) : load_part<T>(p, int(left)));
    }
  }
}

template <typename T, bool add>
void store_transposed(const T* from, T* to, const ScanSizes& sizes, const Channels& channels) {
  for (int64_t c = 0; c < channels.count; ++c) {
    const T* lane = from + c / kLanes<T> * kLanes<T> * sizes.states + c % kLanes<T>;
    for (int64_t s = 0; s < sizes.states; ++s) {
      T* p = to + s * sizes.channels + channels.first + c;
      *p = add ? *p + lane[s * kLanes<T>] : lane[s * kLanes<T>];
    }
  }
}

template <typename T>
void load_channels(T* to, const T* from, const Channels& channels) {
  fill_zero(to, kRow);
  for (int64_t c = 0; from && c < channels.count; ++c) to[c] = from[channels.first + c];
}

template <typename T>
void load_parameters(const ScanInputs<T>& in, const Channels& channels, Workspace<T>& w) {
  load_states(w.A, in.A, 0, channels, in.sizes.states);
  load_channels(w.D, in.D, channels);
  load_channels(w.bias, in.delta_bias, channels);
}

// Tiles of x, delta, z, B and C; dt = softplus(delta + bias) and dt * x.
template <typename T>
void load_inputs(const ScanInputs<T>& in, const Tokens& tokens, const Channels& channels,
                 Workspace<T>& w) {
  load_tile(w.x, in.x, tokens, channels);
  load_tile(w.delta, in.delta, tokens, channels);
  if (in.z.data) load_tile(w.z, in.z, tokens, channels);
  load_group_tile(w.B, in.B, tokens, channels.group, in.sizes.states);
  load_group_tile(w.C, in.C, tokens, channels.group, in.sizes.states);
  for (int64_t t = 0; t < tokens.count; ++t) {
    for (int64_t c = 0; c < channels.count; c += kLanes<T>) {
      const int64_t at = t * kRow + c;
      const Vec<T> raw = load<T>(w.delta + at) + load<T>(w.bias + c);
      const Vec<T> dt = in.softplus ? softplus(raw) : raw;
      store<T>(w.delta + at, raw);
      store<T>(w.dt + at, dt);
      store<T>(w.dtx + at, dt * load<T>(w.x + at));
    }
  }
}

// One step of one vector of channels: the states `h` (n, lanes) move on, the sum of C h is
// returned. With `keep`, decays and carried parts a h are written for backward, and C is not read.
template <typename T, bool keep>
inline Vec<T> step(const T* A, const T* B, const T* C, Vec<T> dt, Vec<T> dtx, T* h, int64_t n,
                   T* decay, T* carried) {
  Vec<T> sum = {};
  for (int64_t s = 0; s < n; ++s) {
    const int64_t at = s * kLanes<T>;
    const Vec<T> a = exp(dt * load<T>(A + at));
    const Vec<T> ah = a * load<T>(h + at);
    const Vec<T> next = ah + dtx * B[s];
    store<T>(h + at, next);
    if constexpr (keep) {
      store<T>(decay + at, a);
      store<T>(carried + at, ah);
    } else {
      sum += next * C[s];
    }
  }
  return sum;
}

template <typename T>
void fwd(const ScanInputs<T>& in, const ScanForward<T>& out, const ScanSequence& sequence,
         int64_t block, T* memory) {
  Scratch<T> scratch{memory};
  Workspace<T> w(scratch, in.sizes.states);
  const int64_t n = in.sizes.states;
  const Channels channels = channels_of(in.sizes, block);
  load_parameters(in, channels, w);
  load_states(w.h, in.initial, sequence.initial, channels, n);
  for (int64_t begin = 0; begin < sequence.count; begin += kScanSaveEvery) {
    if (begin > 0 && out.saved) {
      const int64_t index = sequence.saved + begin / kScanSaveEvery - 1;
      store_transposed<T, false>(w.h, out.saved + index * n * in.sizes.channels, in.sizes,
                                 channels);
    }
    const int64_t left = sequence.count - begin;
    const Tokens tokens =
        tokens_of(sequence, begin, begin + (left < kScanSaveEvery ? left : kScanSaveEvery));
    load_inputs(in, tokens, channels, w);
    for (int64_t c = 0; c < channels.count; c += kLanes<T>) {
      T* h = w.h + c * n;
      for (int64_t t = 0; t < tokens.count; ++t) {
        const int64_t at = t * kRow + c;
        if (tokens.resets[t]) fill_zero(h, n * kLanes<T>);
        Vec<T> y = step<T, false>(w.A + c * n, w.B + t * n, w.C + t * n, load<T>(w.dt + at),
                                  load<T>(w.dtx + at), h, n, nullptr, nullptr);
        y += load<T>(w.D + c) * load<T>(w.x + at);
        if (in.z.data) y *= silu(load<T>(w.z + at));
        store<T>(w.y + at, y);
      }
    }
    store_tile(w.y, out.y, tokens, channels);
  }
  store_states(w.h, out.last, sequence.last, channels, n);
}

// States at the start of the stretch that begins at `begin`.
template <typename T>
void load_start(const ScanInputs<T>& in, const ScanBackward<T>& out, const ScanSequence& sequence,
                int64_t begin, const Channels& channels, T* h) {
  if (begin == 0) return load_states(h, in.initial, sequence.initial, channels, in.sizes.states);
  const int64_t index = sequence.saved + begin / kScanSaveEvery - 1;
  load_transposed(h, out.saved + index * in.sizes.states * in.sizes.channels, in.sizes, channels);
}

// Gradient of y before the gate; `dout` keeps the one after it.
template <typename T>
void load_output_gradient(const ScanInputs<T>& in, const ScanBackward<T>& out, const Tokens& tokens,
                          const Channels& channels, Workspace<T>& w) {
  load_tile(in.z.data ? w.dout : w.dy, out.dy, tokens, channels);
  if (!in.z.data) return;
  for (int64_t t = 0; t < tokens.count; ++t) {
    for (int64_t c = 0; c < channels.count; c += kLanes<T>) {
      const int64_t at = t * kRow + c;
      store<T>(w.dy + at, load<T>(w.dout + at) * silu(load<T>(w.z + at)));
    }
  }
}

// Sums over the states of one token.
template <typename T>
struct StateSums {
  Vec<T> gB, qA, Ch;
};

// One step back. `g` (n, lanes) comes as the gradient of h and leaves as a g, that of the h before.
template <typename T>
inline StateSums<T> step_back(const T* A, const T* B, const T* C, Vec<T> dt, Vec<T> dtx, Vec<T> dy,
                              const T* decay, const T* carried, T* g, T* dA, T* dB, T* dC,
                              int64_t n) {
  StateSums<T> sums = {};
  for (int64_t s = 0; s < n; ++s) {
    const int64_t at = s * kLanes<T>;
    const Vec<T> grad = load<T>(g + at) + dy * C[s];
    const Vec<T> ah = load<T>(carried + at);
    const Vec<T> h = ah + dtx * B[s];
    const Vec<T> q = grad * ah;
    sums.gB += grad * B[s];
    sums.qA += q * load<T>(A + at);
    sums.Ch += h * C[s];
    store<T>(dA + at, load<T>(dA + at) + q * dt);
    store<T>(dB + at, load<T>(dB + at) + grad * dtx);
    store<T>(dC + at, load<T>(dC + at) + h * dy);
    store<T>(g + at, grad * load<T>(decay + at));
  }
  return sums;
}

// One stretch of one vector of channels, last token first.
template <typename T>
void walk_back(const ScanInputs<T>& in, const Tokens& tokens, int64_t c, Workspace<T>& w) {
  const int64_t n = in.sizes.states, step_size = n * kLanes<T>;
  T* g = w.g + c * n;
  const Vec<T> D = load<T>(w.D + c);
  Vec<T> dD = load<T>(w.dD + c), dbias = load<T>(w.dbias + c);
  for (int64_t t = tokens.count - 1; t >= 0; --t) {
    const int64_t at = t * kRow + c;
    const Vec<T> dt = load<T>(w.dt + at), dy = load<T>(w.dy + at), x = load<T>(w.x + at);
    const StateSums<T> sums = step_back<T>(
        w.A + c * n, w.B + t * n, w.C + t * n, dt, load<T>(w.dtx + at), dy, w.decay + t * step_size,
        w.carried + t * step_size, g, w.dA + c * n, w.dB + t * step_size, w.dC + t * step_size, n);
    if (tokens.resets[t]) fill_zero(g, step_size);
    Vec<T> ddelta = x * sums.gB + sums.qA;
    if (in.softplus) ddelta *= sigmoid(load<T>(w.delta + at));
    store<T>(w.ddelta + at, ddelta);
    store<T>(w.dx + at, dt * sums.gB + D * dy);
    dD += dy * x;
    dbias += ddelta;
    if (in.z.data) {
      const Vec<T> y = sums.Ch + D * x;
      store<T>(w.dz + at, load<T>(w.dout + at) * y * silu_derivative(load<T>(w.z + at)));
    }
  }
  store<T>(w.dD + c, dD);
  store<T>(w.dbias + c, dbias);
}

// Sums of the lanes of `count` vectors.
template <typename T>
void sum_lanes(const T* vectors, T* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const Vec<T> sums = sum_each<T>(vectors + i * kLanes<T>);
    const int64_t left = count - i;
    if (left >= kLanes<T>) {
      store<T>(to + i, sums);
    } else {
      store_part<T>(to + i, sums, int(left));
    }
  }
}

template <typename T>
void bwd(const ScanInputs<T>& in, const ScanBackward<T>& out, const ScanSequence& sequence,
         const ScanTask& task, int64_t block, T* parameters, T* memory) {
  Scratch<T> scratch{memory};
  Workspace<T> w(scratch, in.sizes.states);
  const int64_t n = in.sizes.states, d = in.sizes.channels;
  const Channels channels = channels_of(in.sizes, block);
  load_parameters(in, channels, w);
  fill_zero(w.dA, kRow * n);
  fill_zero(w.dD, kRow);
  fill_zero(w.dbias, kRow);
  if (task.end == sequence.count) {
    load_states(w.g, out.dlast, sequence.last, channels, n);
  } else {
    load_transposed(w.g, out.carry + sequence.carry * n * d, in.sizes, channels);
  }
  const int64_t tail = (task.end - task.begin) % kScanSaveEvery;
  int64_t begin = task.end - (tail ? tail : kScanSaveEvery);
  for (int64_t end = task.end; end > task.begin; end = begin, begin -= kScanSaveEvery) {
    const Tokens tokens = tokens_of(sequence, begin, end);
    load_inputs(in, tokens, channels, w);
    load_output_gradient(in, out, tokens, channels, w);
    load_start(in, out, sequence, begin, channels, w.h);
    fill_zero(w.dB, tokens.count * n * kLanes<T>);
    fill_zero(w.dC, tokens.count * n * kLanes<T>);
    for (int64_t c = 0; c < channels.count; c += kLanes<T>) {
      T* h = w.h + c * n;
      for (int64_t t = 0; t < tokens.count; ++t) {
        const int64_t at = t * kRow + c, kept = t * n * kLanes<T>;
        if (tokens.resets[t]) fill_zero(h, n * kLanes<T>);
        step<T, true>(w.A + c * n, w.B + t * n, nullptr, load<T>(w.dt + at), load<T>(w.dtx + at), h,
                      n, w.decay + kept, w.carried + kept);
      }
      walk_back(in, tokens, c, w);
    }
    store_tile(w.dx, out.dx, tokens, channels);
    store_tile(w.ddelta, out.ddelta, tokens, channels);
    if (in.z.data) store_tile(w.dz, out.dz, tokens, channels);
    const int64_t row = block * out.partial_tokens + task.partial + begin - task.begin;
    sum_lanes(w.dB, out.dB + row * n, tokens.count * n);
    sum_lanes(w.dC, out.dC + row * n, tokens.count * n);
  }
  if (task.begin == 0) {
    store_states(w.g, out.dinitial, sequence.initial, channels, n);
  } else {
    store_transposed<T, false>(w.g, out.carry + sequence.carry * n * d, in.sizes, channels);
  }
  store_transposed<T, true>(w.dA, parameters, in.sizes, channels);
  for (int64_t c = 0; c < channels.count; ++c) {
    parameters[n * d + channels.first + c] += w.dD[c];
    parameters[(n + 1) * d + channels.first + c] += w.dbias[c];
  }
}

template <typename T>
void reduce_one(const ScanSizes& sizes, const T* partial, int64_t partial_tokens,
                const ScanSequence& sequence, const ScanTask& task, const ScanGroupView<T>& to) {
  const int64_t n = sizes.states, stride = partial_tokens * n;
  for (int64_t group = 0; group < sizes.groups; ++group) {
    const T* first = partial + group * sizes.blocks_per_group * stride;
    for (int64_t t = task.begin; t < task.end; ++t) {
      const T* from = first + (task.partial + t - task.begin) * n;
      T* row = to.data + sequence.row * to.row + sequence.positions[t] * to.time + group * to.group;
      for (int64_t s = 0; s < n; ++s) {
        T total = 0;
        for (int64_t i = 0; i < sizes.blocks_per_group; ++i) total += from[i * stride + s];
        row[s * to.state] = total;
      }
    }
  }
}

template <typename T>
void reduce(const ScanSizes& sizes, const ScanBackward<T>& out, const ScanSequence& sequence,
            const ScanTask& task, const ScanGroupView<T>& dB, const ScanGroupView<T>& dC) {
  reduce_one(sizes, out.dB, out.partial_tokens, sequence, task, dB);
  reduce_one(sizes, out.dC, out.partial_tokens, sequence, task, dC);
}

template <typename T>
int64_t scratch_elements(int64_t states) {
  Scratch<T> scratch{nullptr};
  Workspace<T> workspace(scratch, states);
  (void)workspace;
  return scratch.used;
}

}  // namespace

template <typename T>
const SelectiveScanKernels<T>& selective_scan_kernels() {
  static constexpr SelectiveScanKernels<T> table{scratch_elements<T>, fwd<T>, bwd<T>, reduce<T>};
  return table;
}
template const SelectiveScanKernels<float>& selective_scan_kernels<float>();
template const SelectiveScanKernels<double>& selective_scan_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
