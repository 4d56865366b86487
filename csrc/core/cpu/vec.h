#pragma once
// A vector of T as wide as the instruction set that this file is compiled for, with the few
// functions that sequence kernels need. Only for `<op>_kernel.cpp` files: everything lives in the
// namespace of their instruction set, so that no inline function compiled for AVX-512 can be linked
// into the others. For the same reason those files instantiate no standard library templates.
//
// float: exp and log1p within 2 ulp, evaluated by polynomials. double: through libm, lane by lane
// (double serves tests, not speed).

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef ASPIS_ISA
#error "core/cpu/vec.h is for files compiled once per instruction set"
#endif

namespace aspis::cpu::ASPIS_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));
typedef int32_t Int32Vector __attribute__((vector_size(kVectorBytes)));

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};
template <typename T>
using Vec = typename VectorOf<T>::type;
template <typename T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <typename T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof(v));
}
// The first `count` lanes; the others are zero.
template <typename T>
inline Vec<T> load_part(const T* p, int count) {
  Vec<T> v = {};
  std::memcpy(&v, p, sizeof(T) * static_cast<size_t>(count));
  return v;
}
template <typename T>
inline void store_part(T* p, Vec<T> v, int count) {
  std::memcpy(p, &v, sizeof(T) * static_cast<size_t>(count));
}
template <typename T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}
// Sum of all lanes, in a fixed order.
template <typename T>
inline T sum(Vec<T> v) {
  T parts[kLanes<T>];
  store<T>(parts, v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

// Lane i of the result is the sum of all lanes of vector i, for kLanes vectors stored one after the
// other: a tree of shuffles, in a fixed order. Much cheaper than `sum` of each.
template <typename T>
struct MaskOf;
template <>
struct MaskOf<float> {
  typedef int32_t type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct MaskOf<double> {
  typedef int64_t type __attribute__((vector_size(kVectorBytes)));
};
template <typename T, int count = kLanes<T>>
inline Vec<T> sum_each(const T* vectors) {
  if constexpr (count == 1) {
    return load<T>(vectors);
  } else {
    constexpr int width = count / 2;
    const Vec<T> a = sum_each<T, width>(vectors);
    const Vec<T> b = sum_each<T, width>(vectors + width * kLanes<T>);
    typename MaskOf<T>::type low = {}, high = {};
    for (int i = 0; i < kLanes<T>; ++i) {
      const int within = i % count, from = within < width ? i : kLanes<T> + i - width;
      low[i] = from;
      high[i] = from + width;
    }
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
  }
}

inline FloatVector max(FloatVector a, FloatVector b) {
  return a > b ? a : b;
}
inline FloatVector min(FloatVector a, FloatVector b) {
  return a < b ? a : b;
}

// exp(x) for x <= 88; 0 below -104, where float has no smaller number.
inline FloatVector exp(FloatVector x) {
  // The bounds come first: both selections then let a NaN through.
  x = min(broadcast<float>(88.72f), max(broadcast<float>(-104.f), x));
  // x = n log2 + r; adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const FloatVector shift = broadcast<float>(12582912.f);
  const FloatVector n = (x * 1.44269504088896341f + shift) - shift;
  FloatVector r = x - n * 0.693145751953125f;
  r = r - n * 1.42860682030941723e-6f;
  FloatVector p = broadcast<float>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(0xffff, p, n);
#else
  // 2^n in two factors, so that results below the normal range stay right.
  const Int32Vector whole = __builtin_convertvector(n, Int32Vector);
  const Int32Vector half = whole >> 1;
  const Int32Vector bits1 = (half + 127) << 23;
  const Int32Vector bits2 = (whole - half + 127) << 23;
  FloatVector scale1, scale2;
  std::memcpy(&scale1, &bits1, sizeof(scale1));
  std::memcpy(&scale2, &bits2, sizeof(scale2));
  return p * scale1 * scale2;
#endif
}

// log(1 + u) for 0 <= u <= 1, exact to rounding for tiny u too: 2 atanh(u / (2 + u)) by its series.
inline FloatVector log1p_unit(FloatVector u) {
  const FloatVector s = u / (u + 2.f);
  const FloatVector s2 = s * s;
  FloatVector p = broadcast<float>(1.f / 15.f);
  p = p * s2 + 1.f / 13.f;
  p = p * s2 + 1.f / 11.f;
  p = p * s2 + 1.f / 9.f;
  p = p * s2 + 1.f / 7.f;
  p = p * s2 + 1.f / 5.f;
  p = p * s2 + 1.f / 3.f;
  const FloatVector twice = 2.f * s;
  return twice * s2 * p + twice;
}

inline DoubleVector exp(DoubleVector x) {
  DoubleVector y = {};
  for (int i = 0; i < kLanes<double>; ++i) y[i] = std::exp(x[i]);
  return y;
}
inline DoubleVector log1p_unit(DoubleVector u) {
  DoubleVector y = {};
  for (int i = 0; i < kLanes<double>; ++i) y[i] = std::log1p(u[i]);
  return y;
}

// exp(-|x|) never overflows, which the three functions below build on.
template <typename V>
inline V exp_minus_abs(V x) {
  return exp(x > 0 ? -x : x);
}
template <typename V>
inline V sigmoid(V x) {
  const V e = exp_minus_abs(x);
  return (x > 0 ? V{} + 1 : e) / (1 + e);
}
template <typename V>
inline V softplus(V x) {
  return (x > 0 ? x : V{}) + log1p_unit(exp_minus_abs(x));
}
template <typename V>
inline V silu(V x) {
  return x * sigmoid(x);
}
// Derivative of silu: s (1 + x (1 - s)), s = sigmoid(x).
template <typename V>
inline V silu_derivative(V x) {
  const V s = sigmoid(x);
  return s * (1 + x * (1 - s));
}

}  // namespace aspis::cpu::ASPIS_ISA
