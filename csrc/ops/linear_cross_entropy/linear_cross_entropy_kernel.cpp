// Compiled once per instruction set (core/cpu/isa.h). No Torch, no standard library templates.
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"

#include "core/cpu/vec.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

// Logits that share one maximum in the online softmax: they stay in the first-level cache between
// the search for the maximum and the exponentials.
constexpr int64_t kBlock = 512;

// Below every logit, and far from overflow when another is subtracted.
template <typename T>
constexpr T kLowest = sizeof(T) == 4 ? T(-1e37) : T(-1e300);

template <typename T>
inline Vec<T> larger(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

// The first `count` lanes; the others hold `fill`.
template <typename T>
inline Vec<T> load_filled(const T* p, int count, T fill) {
  if (count == kLanes<T>) return load<T>(p);
  Vec<T> v = broadcast<T>(fill);
  std::memcpy(&v, p, sizeof(T) * static_cast<size_t>(count));
  return v;
}

template <typename T>
inline T max_of(Vec<T> v) {
  T best = v[0];
  for (int i = 1; i < kLanes<T>; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// f(first element, elements in the vector) for all vectors of [begin, end).
template <typename T, typename F>
inline void for_vectors(int64_t begin, int64_t end, F&& f) {
  int64_t i = begin;
  for (; i + kLanes<T> <= end; i += kLanes<T>) f(i, kLanes<T>);
  if (i < end) f(i, static_cast<int>(end - i));
}

// What one pass over a row of logits yields: exp(logit - max) sums to `exp_sum`.
template <typename T>
struct RowSums {
  T max = kLowest<T>;
  double exp_sum = 0;
  double logit_sum = 0;
};

template <typename T>
RowSums<T> online_softmax(const T* products, int64_t size, T scale) {
  using V = Vec<T>;
  RowSums<T> row;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = begin + kBlock < size ? begin + kBlock : size;
    V best = broadcast<T>(kLowest<T>), total = {};
    for_vectors<T>(begin, end, [&](int64_t i, int count) {
      total += scale * load_filled<T>(products + i, count, 0);
      const V logits = scale * load_filled<T>(products + i, count, products[begin]);
      best = larger<T>(best, logits);
    });
    const T block_max = max_of<T>(best);
    if (block_max > row.max) {
      row.exp_sum *= exp(broadcast<T>(row.max - block_max))[0];
      row.max = block_max;
    }
    V exps = {};
    for_vectors<T>(begin, end, [&](int64_t i, int count) {
      const V e = exp(scale * load_filled<T>(products + i, count, 0) - row.max);
      if (count == kLanes<T>) {
        exps += e;
      } else {
        for (int lane = 0; lane < count; ++lane) exps[lane] += e[lane];
      }
    });
    row.exp_sum += static_cast<double>(sum<T>(exps));
    row.logit_sum += static_cast<double>(sum<T>(total));
  }
  return row;
}

template <typename T>
void rows(const CrossEntropyParams& p, T* products, const int64_t* targets,
          const double* token_weights, bool gradient, T* nll, int64_t begin, int64_t end) {
  using V = Vec<T>;
  const T scale = static_cast<T>(p.logit_scale);
  const double uniform = p.label_smoothing / static_cast<double>(p.vocabulary);
  for (int64_t t = begin; t < end; ++t) {
    T* row = products + t * p.vocabulary;
    const RowSums<T> sums = online_softmax<T>(row, p.vocabulary, scale);
    const double lse = static_cast<double>(sums.max) + std::log(sums.exp_sum);
    const double target_logit = static_cast<double>(scale) * static_cast<double>(row[targets[t]]);
    nll[t] = static_cast<T>(lse - (1 - p.label_smoothing) * target_logit -
                            uniform * sums.logit_sum + p.z_loss * lse * lse);
    if (!gradient) continue;
    // d nll / d logit_j = softmax_j (1 + 2 z lse) - s / v - (1 - s) [j = target]
    const double outer = p.logit_scale * (token_weights ? token_weights[t] : 1.0);
    const T factor = static_cast<T>(outer * (1 + 2 * p.z_loss * lse) / sums.exp_sum);
    const T shift = static_cast<T>(outer * uniform);
    for_vectors<T>(0, p.vocabulary, [&](int64_t i, int count) {
      if (count == kLanes<T>) {
        store<T>(row + i, factor * exp(scale * load<T>(row + i) - sums.max) - shift);
      } else {
        const V g = factor * exp(scale * load_part<T>(row + i, count) - sums.max) - shift;
        store_part<T>(row + i, g, count);
      }
    });
    row[targets[t]] -= static_cast<T>(outer * (1 - p.label_smoothing));
  }
}

}  // namespace

template <typename T>
const LinearCrossEntropyKernels<T>& linear_cross_entropy_kernels() {
  static constexpr LinearCrossEntropyKernels<T> table{rows<T>};
  return table;
}
template const LinearCrossEntropyKernels<float>& linear_cross_entropy_kernels<float>();
template const LinearCrossEntropyKernels<double>& linear_cross_entropy_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
