#pragma once
// Small dense matrices for the chunk kernels: products with register blocking, transposes, row
// operations. Only for *_kernel.cpp files (core/cpu/vec.h says why). All matrices are row-major.
// Rows and columns are padded to multiples of kPad<T>; padding that is read holds zeros.

#include <utility>  // integer_sequence: a type, no code

#include "core/cpu/vec.h"

namespace aspis::ops::ASPIS_ISA {

using namespace cpu::ASPIS_ISA;

// Register block of a product: kRowTile rows of two vectors. AVX-512 has 32 registers, the
// others 16.
inline constexpr int kRowTile = kVectorBytes == 64 ? 8 : 4;
inline constexpr int kVectorTile = 2;
template <typename T>
inline constexpr int kPad = kLanes<T> > kRowTile ? kLanes<T> : kRowTile;

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Which part of a product matters. Lower/upper: only that triangle of the result is wanted, or the
// left factor is zero outside that triangle. Backwards: the sum starts at its last term, and so
// does that of an upper factor: sums over decaying terms are exact to rounding when the largest
// come last.
enum class Part { kAll, kAllBackwards, kLowerResult, kLowerFactor, kUpperResult, kUpperFactor };

// c (kRowTile x V vectors) = or += a (kRowTile x k) b (k x V vectors); a and b point at the first
// term.
template <typename T, int V, int step>
inline void multiply_block(bool add, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                           T* c, int64_t ldc) {
  Vec<T> acc[kRowTile][V];
#pragma GCC unroll 8
  for (int i = 0; i < kRowTile; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      acc[i][v] = add ? load<T>(c + i * ldc + v * kLanes<T>) : Vec<T>{};
    }
  }
  for (int64_t j = 0; j < k; ++j) {
    Vec<T> row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load<T>(b + j * step * ldb + v * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < kRowTile; ++i) {
      const T factor = a[i * lda + j * step];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[i][v] += factor * row[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRowTile; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store<T>(c + i * ldc + v * kLanes<T>, acc[i][v]);
  }
}

template <typename T, int V>
inline void multiply_columns(Part part, bool add, int64_t m, int64_t column, int64_t k, const T* a,
                             int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc) {
  const int64_t width = V * kLanes<T>;
  for (int64_t i = 0; i < m; i += kRowTile) {
    if (part == Part::kLowerResult && column > i + kRowTile - 1) continue;
    if (part == Part::kUpperResult && column + width <= i) continue;
    int64_t first = 0, last = k;
    if (part == Part::kLowerFactor && i + kRowTile < k) last = i + kRowTile;
    if (part == Part::kUpperFactor) first = i < k ? i : k;
    if (part == Part::kAllBackwards || part == Part::kUpperFactor) {
      multiply_block<T, V, -1>(add, last - first, a + i * lda + last - 1, lda,
                               b + (last - 1) * ldb + column, ldb, c + i * ldc + column, ldc);
    } else {
      multiply_block<T, V, 1>(add, last - first, a + i * lda + first, lda, b + first * ldb + column,
                              ldb, c + i * ldc + column, ldc);
    }
  }
}

// c (m x n) = or += a (m x k) b (k x n). m and n are rounded up to the padding, k is exact. A slice
// of two vectors of b stays in the first-level cache while the rows of a pass.
template <typename T>
void multiply(Part part, bool add, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda,
              const T* b, int64_t ldb, T* c, int64_t ldc) {
  m = round_up(m, kRowTile);
  n = round_up(n, kLanes<T>);
  int64_t column = 0;
  for (; column + kVectorTile * kLanes<T> <= n; column += kVectorTile * kLanes<T>) {
    multiply_columns<T, kVectorTile>(part, add, m, column, k, a, lda, b, ldb, c, ldc);
  }
  if (column < n) multiply_columns<T, 1>(part, add, m, column, k, a, lda, b, ldb, c, ldc);
}

// The lanes of a where bit H of the lane number is clear, b's lanes in between; and the other half.
template <int H, typename V, int... lane>
inline V merge_low(V a, V b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(
      a, b, ((lane & H) == 0 ? lane : static_cast<int>(sizeof...(lane)) + lane - H)...);
}
template <int H, typename V, int... lane>
inline V merge_high(V a, V b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(
      a, b, ((lane & H) == 0 ? lane + H : static_cast<int>(sizeof...(lane)) + lane)...);
}

// One stage of the transpose of a square block in registers: exchanges off-diagonal blocks of size
// H.
template <typename T, int H>
inline void exchange_blocks(Vec<T> (&row)[kLanes<T>]) {
  using Lanes = std::make_integer_sequence<int, kLanes<T>>;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if ((i & H) != 0) continue;
    const Vec<T> low = merge_low<H>(row[i], row[i + H], Lanes{});
    row[i + H] = merge_high<H>(row[i], row[i + H], Lanes{});
    row[i] = low;
  }
  if constexpr (H > 1) exchange_blocks<T, H / 2>(row);
}

// to (columns x rows) = transpose of from (rows x columns); padding is neither read nor written.
template <typename T>
void transpose(int64_t rows, int64_t columns, const T* from, int64_t ld_from, T* to,
               int64_t ld_to) {
  constexpr int kL = kLanes<T>;
  const int64_t full_rows = rows / kL * kL, full_columns = columns / kL * kL;
  for (int64_t i = 0; i < full_rows; i += kL) {
    for (int64_t j = 0; j < full_columns; j += kL) {
      Vec<T> block[kL];
#pragma GCC unroll 16
      for (int r = 0; r < kL; ++r) block[r] = load<T>(from + (i + r) * ld_from + j);
      exchange_blocks<T, kL / 2>(block);
#pragma GCC unroll 16
      for (int r = 0; r < kL; ++r) store<T>(to + (j + r) * ld_to + i, block[r]);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < full_rows ? full_columns : 0; j < columns; ++j) {
      to[j * ld_to + i] = from[i * ld_from + j];
    }
  }
}

template <typename T>
inline void zero(T* to, int64_t count) {
  std::memset(to, 0, sizeof(T) * static_cast<size_t>(count));
}

// to[0, width) = scale * from[0, n), zeros behind n. width is padded.
template <typename T>
inline void copy_row(T* to, const T* from, T scale, int64_t n, int64_t width) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store<T>(to + i, scale * load<T>(from + i));
  if (i < n) {
    store<T>(to + i, scale * load_part<T>(from + i, static_cast<int>(n - i)));
    i += kLanes<T>;
  }
  for (; i < width; i += kLanes<T>) store<T>(to + i, Vec<T>{});
}
template <typename T>
inline void scale_row(T* row, T scale, int64_t width) {
  for (int64_t i = 0; i < width; i += kLanes<T>) store<T>(row + i, scale * load<T>(row + i));
}
// to += scale * from
template <typename T>
inline void add_row(T* to, const T* from, T scale, int64_t width) {
  for (int64_t i = 0; i < width; i += kLanes<T>) {
    store<T>(to + i, load<T>(to + i) + scale * load<T>(from + i));
  }
}
template <typename T>
inline T dot_row(const T* a, const T* b, int64_t width) {
  Vec<T> total = {};
  for (int64_t i = 0; i < width; i += kLanes<T>) total += load<T>(a + i) * load<T>(b + i);
  return sum<T>(total);
}

}  // namespace aspis::ops::ASPIS_ISA
