// Compiled once per instruction set (core/cpu/isa.h). No Torch, no standard library templates.
//
// One vector of channels at a time: its taps and bias (and their gradients) stay in registers while
// the time loop runs over the rows of a chunk, which stay in the cache for the next vector of
// channels.
#include "ops/causal_conv1d/causal_conv1d_kernel.h"

#include "core/cpu/vec.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

// Channels [at, at + count) of a row; count = kLanes<T> when kFull.
template <typename T, bool kFull>
struct Channels {
  int64_t at;
  int count;
  Vec<T> get(const T* row) const {
    if constexpr (kFull) return load<T>(row + at);
    return load_part<T>(row + at, count);
  }
  void put(T* row, Vec<T> v) const {
    if constexpr (kFull) {
      store<T>(row + at, v);
    } else {
      store_part<T>(row + at, v, count);
    }
  }
};

// The taps of one vector of channels: in registers for a width W known here, else read where
// needed.
template <typename T, int W, bool kFull>
struct Taps {
  const Channels<T, kFull>& channels;
  const T* weight;
  int64_t stride;
  Vec<T> held[W > 0 ? W : 1];

  Taps(const Channels<T, kFull>& c, const CausalConv1dParams& p, const T* w)
      : channels(c), weight(w), stride(p.channels) {
    for (int k = 0; k < W; ++k) held[k] = channels.get(weight + k * stride);
  }
  Vec<T> operator[](int64_t k) const {
    if constexpr (W > 0) return held[k];
    return channels.get(weight + k * stride);
  }
};

template <typename T, int W, bool kSilu, bool kFull>
void fwd_vector(const CausalConv1dParams& p, const T* const* rows, const T* weight, const T* bias,
                T* const* y, int64_t count, const Channels<T, kFull>& channels) {
  const int64_t width = W > 0 ? W : p.width;
  const Taps<T, W, kFull> taps(channels, p, weight);
  const Vec<T> start = bias ? channels.get(bias) : Vec<T>{};
  for (int64_t i = 0; i < count; ++i) {
    Vec<T> o = start;
    for (int64_t k = 0; k < width; ++k) o += taps[k] * channels.get(rows[i + k]);
    if constexpr (kSilu) o = silu(o);
    channels.put(y[i], o);
  }
}

template <typename T, int W, bool kSilu>
void fwd_width(const CausalConv1dParams& p, const T* const* rows, const T* weight, const T* bias,
               T* const* y, int64_t count, int64_t begin, int64_t end) {
  int64_t c = begin;
  for (; c + kLanes<T> <= end; c += kLanes<T>) {
    fwd_vector<T, W, kSilu, true>(p, rows, weight, bias, y, count, {c, kLanes<T>});
  }
  if (c < end) {
    fwd_vector<T, W, kSilu, false>(p, rows, weight, bias, y, count, {c, int(end - c)});
  }
}

// Gradients of the preactivations of outputs [begin, end), one vector each, into `out`. kOwn: the
// outputs are this chunk's own and count towards dweight and dbias.
template <typename T, int W, bool kSilu, bool kOwn, bool kFull>
void bwd_outputs(const CausalConv1dParams& p, const CausalConv1dBwdChunk<T>& chunk,
                 const Taps<T, W, kFull>& taps, Vec<T> bias, T* partial, int64_t begin, int64_t end,
                 T* out, const Channels<T, kFull>& channels) {
  const int64_t width = W > 0 ? W : p.width;
  Vec<T> dweight[W > 0 ? W : 1] = {};
  Vec<T> dbias = {};
  for (int64_t i = begin; i < end; ++i, out += kLanes<T>) {
    Vec<T> d = channels.get(chunk.dy[i]);
    if constexpr (kSilu) {
      Vec<T> o = bias;
      for (int64_t k = 0; k < width; ++k) o += taps[k] * channels.get(chunk.rows[i + k]);
      d *= silu_derivative(o);
    }
    store<T>(out, d);
    if constexpr (kOwn) {
      dbias += d;
      for (int64_t k = 0; k < width; ++k) {
        const Vec<T> product = d * channels.get(chunk.rows[i + k]);
        if constexpr (W > 0) {
          dweight[k] += product;
        } else {
          T* sum = partial + k * p.channels;
          channels.put(sum, channels.get(sum) + product);
        }
      }
    }
  }
  if constexpr (kOwn) {
    for (int k = 0; k < W; ++k) {
      T* sum = partial + k * p.channels;
      channels.put(sum, channels.get(sum) + dweight[k]);
    }
    T* sum = partial + width * p.channels;
    channels.put(sum, channels.get(sum) + dbias);
  }
}

template <typename T, int W, bool kSilu, bool kFull>
void bwd_vector(const CausalConv1dParams& p, const CausalConv1dBwdChunk<T>& chunk, const T* weight,
                const T* bias, T* partial, T* scratch, const Channels<T, kFull>& channels) {
  const int64_t width = W > 0 ? W : p.width;
  const Taps<T, W, kFull> taps(channels, p, weight);
  const Vec<T> start = bias ? channels.get(bias) : Vec<T>{};
  // Row e of the extended sequence takes part in the outputs e - w + 1 ... e. Those of this chunk's
  // rows begin at `first`; the last w - 1 of them belong to the next chunk and are computed twice.
  const int64_t first = chunk.begin - (width - 1);
  const int64_t low = first > 0 ? first : 0;
  int64_t high = chunk.end < chunk.tokens ? chunk.end : chunk.tokens;
  if (!chunk.dy || high < low) high = low;
  int64_t own = chunk.end - (width - 1) < high ? chunk.end - (width - 1) : high;
  if (own < low) own = low;
  const auto place = [&](int64_t i) { return scratch + (i - first) * kLanes<T>; };
  for (int64_t i = first; i < low; ++i) store<T>(place(i), Vec<T>{});
  bwd_outputs<T, W, kSilu, true>(p, chunk, taps, start, partial, low, own, place(low), channels);
  bwd_outputs<T, W, kSilu, false>(p, chunk, taps, start, partial, own, high, place(own), channels);
  for (int64_t i = high; i < chunk.end; ++i) store<T>(place(i), Vec<T>{});

  for (int64_t e = chunk.begin; e < chunk.end; ++e) {
    if (!chunk.dx[e]) continue;
    Vec<T> dx = {};
    for (int64_t k = 0; k < width; ++k) dx += taps[k] * load<T>(place(e - k));
    if (chunk.dlast && e >= chunk.tokens) {
      dx += channels.get(chunk.dlast + (e - chunk.tokens) * p.channels);
    }
    channels.put(chunk.dx[e], dx);
  }
}

template <typename T, int W, bool kSilu>
void bwd_width(const CausalConv1dParams& p, const CausalConv1dBwdChunk<T>& chunk, const T* weight,
               const T* bias, T* partial, T* scratch, int64_t begin, int64_t end) {
  int64_t c = begin;
  for (; c + kLanes<T> <= end; c += kLanes<T>) {
    bwd_vector<T, W, kSilu, true>(p, chunk, weight, bias, partial, scratch, {c, kLanes<T>});
  }
  if (c < end) {
    bwd_vector<T, W, kSilu, false>(p, chunk, weight, bias, partial, scratch, {c, int(end - c)});
  }
}

template <typename T, bool kSilu>
void fwd_silu(const CausalConv1dParams& p, const T* const* rows, const T* weight, const T* bias,
              T* const* y, int64_t count, int64_t begin, int64_t end) {
  switch (p.width) {
    case 2:
      return fwd_width<T, 2, kSilu>(p, rows, weight, bias, y, count, begin, end);
    case 3:
      return fwd_width<T, 3, kSilu>(p, rows, weight, bias, y, count, begin, end);
    case 4:
      return fwd_width<T, 4, kSilu>(p, rows, weight, bias, y, count, begin, end);
    default:
      return fwd_width<T, 0, kSilu>(p, rows, weight, bias, y, count, begin, end);
  }
}

template <typename T, bool kSilu>
void bwd_silu(const CausalConv1dParams& p, const CausalConv1dBwdChunk<T>& chunk, const T* weight,
              const T* bias, T* partial, T* scratch, int64_t begin, int64_t end) {
  switch (p.width) {
    case 2:
      return bwd_width<T, 2, kSilu>(p, chunk, weight, bias, partial, scratch, begin, end);
    case 3:
      return bwd_width<T, 3, kSilu>(p, chunk, weight, bias, partial, scratch, begin, end);
    case 4:
      return bwd_width<T, 4, kSilu>(p, chunk, weight, bias, partial, scratch, begin, end);
    default:
      return bwd_width<T, 0, kSilu>(p, chunk, weight, bias, partial, scratch, begin, end);
  }
}

template <typename T>
void fwd(const CausalConv1dParams& p, const T* const* rows, const T* weight, const T* bias,
         T* const* y, int64_t count, int64_t begin, int64_t end) {
  if (p.silu) return fwd_silu<T, true>(p, rows, weight, bias, y, count, begin, end);
  return fwd_silu<T, false>(p, rows, weight, bias, y, count, begin, end);
}

template <typename T>
void bwd(const CausalConv1dParams& p, const CausalConv1dBwdChunk<T>& chunk, const T* weight,
         const T* bias, T* partial, T* scratch, int64_t begin, int64_t end) {
  if (p.silu) return bwd_silu<T, true>(p, chunk, weight, bias, partial, scratch, begin, end);
  return bwd_silu<T, false>(p, chunk, weight, bias, partial, scratch, begin, end);
}

}  // namespace

template <typename T>
const CausalConv1dKernels<T>& causal_conv1d_kernels() {
  static constexpr CausalConv1dKernels<T> table{fwd<T>, bwd<T>};
  return table;
}
template const CausalConv1dKernels<float>& causal_conv1d_kernels<float>();
template const CausalConv1dKernels<double>& causal_conv1d_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
