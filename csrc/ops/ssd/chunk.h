#pragma once
// What forward and backward do alike with one chunk: gather its rows, and its decays. Only for
// *_kernel.cpp files.

#include "ops/ssd/params.h"
#include "ops/ssd/tile.h"

namespace aspis::ops::ASPIS_ISA {

// Row stride of matrices with one column per token of the chunk.
inline constexpr int64_t kQ = kSsdChunk;

template <typename T>
inline int64_t padded(int64_t size) {
  return round_up(size, kPad<T>);
}

// to (tokens of the chunk, width) = rows of `from`; zero rows up to the padding.
template <typename T>
void gather(const SsdInputs<T>& in, const SsdChunk& chunk, const SsdView<const T>& from,
            int64_t head, int64_t size, T* to) {
  const int64_t width = padded<T>(size);
  for (int64_t i = 0; i < chunk.count; ++i) {
    copy_row<T>(to + i * width, from.at(in.tokens[chunk.first + i], head), T(1), size, width);
  }
  const int64_t rows = padded<T>(chunk.count);
  zero(to + chunk.count * width, (rows - chunk.count) * width);
}

// Step sizes and decays of one head in one chunk. Exponents are differences of one running sum in
// double: it keeps steps of 1e-3 apart behind steps of thousands.
template <typename T>
struct Decays {
  double sum[kSsdChunk];     // sum of dt A up to and with the token; the last value repeats behind
  T dt[kSsdChunk];           // zero behind the last token
  T slope[kSsdChunk];        // d dt / d dt_raw: zero outside the limits
  T since_start[kSsdChunk];  // decay of the state that enters, at the token
  T until_end[kSsdChunk];    // decay of the token's share in the state that leaves
  T whole;                   // decay of the entering state in the leaving one
};

// Results below float's normal range become zero: they carry nothing and cost a trap per product.
template <typename T>
inline Vec<T> decay(Vec<T> exponent) {
  const T lowest = sizeof(T) == 4 ? T(-87) : T(-708);
  return exponent < lowest ? Vec<T>{} : exp(exponent);
}

template <typename T>
void read_decays(const SsdInputs<T>& in, const SsdChunk& chunk, int64_t head, Decays<T>& out) {
  constexpr int kL = kLanes<T>;
  const T bias = in.dt_bias ? in.dt_bias[head] : T(0);
  T raw[kSsdChunk] = {};
  for (int i = 0; i < chunk.count; ++i) {
    raw[i] = *in.dt.at(in.tokens[chunk.first + i], head) + bias;
  }
  for (int i = 0; i < kSsdChunk; i += kL) {
    const Vec<T> v = load<T>(raw + i);
    Vec<T> dt = v, slope = broadcast<T>(1);
    if (in.softplus) {
      dt = softplus(v);
      slope = sigmoid(v);
    }
    // A NaN passes both selections.
    slope = dt < in.dt_min ? Vec<T>{} : slope;
    slope = dt > in.dt_max ? Vec<T>{} : slope;
    dt = dt < in.dt_min ? broadcast<T>(in.dt_min) : dt;
    dt = dt > in.dt_max ? broadcast<T>(in.dt_max) : dt;
    store<T>(out.dt + i, dt);
    store<T>(out.slope + i, slope);
  }
  const double A = in.A[head];
  double sum = 0;
  for (int i = 0; i < kSsdChunk; ++i) {
    if (i < chunk.count) {
      const double log_decay = out.dt[i] * A;
      sum += log_decay < -1e4 ? -1e4 : log_decay;  // exp is zero long before; the sum stays exact
    } else {
      out.dt[i] = 0;
    }
    out.sum[i] = sum;
  }
  T since[kSsdChunk], until[kSsdChunk];
  for (int i = 0; i < kSsdChunk; ++i) {
    since[i] = static_cast<T>(out.sum[i]);
    until[i] = static_cast<T>(sum - out.sum[i]);
  }
  for (int i = 0; i < kSsdChunk; i += kL) {
    store<T>(out.since_start + i, decay<T>(load<T>(since + i)));
    store<T>(out.until_end + i, decay<T>(load<T>(until + i)));
  }
  out.whole = out.since_start[chunk.count - 1];
}

// (p, n) of the interface -> (p, n) with padding.
template <typename T>
void load_state(int64_t p, int64_t n, const T* from, T* to) {
  const int64_t width = padded<T>(n);
  for (int64_t i = 0; i < p; ++i) copy_row<T>(to + i * width, from + i * n, T(1), n, width);
  zero(to + p * width, (padded<T>(p) - p) * width);
}
template <typename T>
void store_state(int64_t p, int64_t n, const T* from, T* to) {
  const int64_t width = padded<T>(n);
  for (int64_t i = 0; i < p; ++i) {
    std::memcpy(to + i * n, from + i * width, sizeof(T) * static_cast<size_t>(n));
  }
}
// The state that enters, turned to (n, p) with padding.
template <typename T>
void load_state_turned(int64_t p, int64_t n, const T* from, T* to) {
  zero(to, padded<T>(n) * padded<T>(p));
  transpose<T>(p, n, from, n, to, padded<T>(p));
}

// One row of D x + y, gated: to = (y + D x) silu(z). Any of D and z may be missing.
template <typename T>
void finish_row(int64_t p, const T* y, const T* x, const T* D, const T* z, T* to) {
  for (int64_t i = 0; i < p; i += kLanes<T>) {
    const int lanes = p - i < kLanes<T> ? static_cast<int>(p - i) : kLanes<T>;
    Vec<T> v = load<T>(y + i);
    if (D) v += load_part<T>(D + i, lanes) * load_part<T>(x + i, lanes);
    if (z) v *= silu(load_part<T>(z + i, lanes));
    store_part<T>(to + i, v, lanes);
  }
}

// Carves pieces from the scratch memory of a unit; without memory it only counts.
template <typename T>
struct Carver {
  T* memory;
  int64_t used = 0;
  T* take(int64_t count) {
    T* piece = memory ? memory + used : nullptr;
    used += count;
    return piece;
  }
};

}  // namespace aspis::ops::ASPIS_ISA
