// Compiled once per instruction set (core/cpu/isa.h). No Torch, no standard library templates.
#include "ops/rms_norm/rms_norm_kernel.h"

#include "core/cpu/vec.h"

namespace aspis::ops::ASPIS_ISA {
namespace {

using namespace cpu::ASPIS_ISA;

// What surrounds the normalisation of u.
enum class Form {
  kPlain,       // u = x
  kAdd,         // u = x + residual
  kGateBefore,  // u = x silu(z)
  kGateAfter,   // u = x, and the result is multiplied by silu(z)
};

// Independent sums, so that additions do not wait for each other.
constexpr int kSums = 4;

template <typename T>
inline Vec<T> load_upto(const T* p, int count) {
  return count == kLanes<T> ? load<T>(p) : load_part<T>(p, count);
}
template <typename T>
inline void store_upto(T* p, Vec<T> v, int count) {
  if (count == kLanes<T>) {
    store<T>(p, v);
  } else {
    store_part<T>(p, v, count);
  }
}

// f(first element, elements in the vector, which sum) for all vectors of a group. Absent elements
// of the last vector are loaded as zeros, which change no sum.
template <typename T, typename F>
inline void for_vectors(int64_t size, F&& f) {
  constexpr int lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + kSums * lanes <= size; i += kSums * lanes) {
    f(i, lanes, 0);
    f(i + lanes, lanes, 1);
    f(i + 2 * lanes, lanes, 2);
    f(i + 3 * lanes, lanes, 3);
  }
  for (; i + lanes <= size; i += lanes) f(i, lanes, 0);
  if (i < size) f(i, static_cast<int>(size - i), 0);
}

template <typename T>
inline T total(const Vec<T>* sums) {
  return sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// 1 / sqrt(mean square + eps)
template <typename T>
inline T inverse_rms(T square_sum, const RmsNormParams& p) {
  const double mean = static_cast<double>(square_sum) / static_cast<double>(p.group_size);
  return static_cast<T>(1.0 / __builtin_sqrt(mean + p.eps));
}

template <typename T, Form form>
void fwd_rows(const RmsNormParams& p, const NormForward<T>& a, int64_t begin, int64_t end) {
  using V = Vec<T>;
  for (int64_t part = begin * p.groups; part < end * p.groups; ++part) {
    const int64_t row = part / p.groups, first = (part % p.groups) * p.group_size;
    const T* x = a.x.data + row * a.x.stride + first;
    const T* residual =
        form == Form::kAdd ? a.residual.data + row * a.residual.stride + first : nullptr;
    const T* z = a.z.data ? a.z.data + row * a.z.stride + first : nullptr;
    const T* weight = a.weight + first;
    T* y = a.y + part * p.group_size;
    T* sum = form == Form::kAdd ? a.sum + part * p.group_size : nullptr;

    V squares[kSums] = {};
    for_vectors<T>(p.group_size, [&](int64_t i, int count, int slot) {
      V u = load_upto<T>(x + i, count);
      if constexpr (form == Form::kAdd) {
        u += load_upto<T>(residual + i, count);
        store_upto<T>(sum + i, u, count);
      }
      if constexpr (form == Form::kGateBefore) {
        u *= silu(load_upto<T>(z + i, count));
        store_upto<T>(y + i, u, count);
      }
      squares[slot] += u * u;
    });
    const T r = inverse_rms<T>(total<T>(squares), p);

    const T* u = form == Form::kAdd ? sum : form == Form::kGateBefore ? y : x;
    for_vectors<T>(p.group_size, [&](int64_t i, int count, int) {
      V value = load_upto<T>(u + i, count) * r * load_upto<T>(weight + i, count);
      if constexpr (form == Form::kGateAfter) value *= silu(load_upto<T>(z + i, count));
      store_upto<T>(y + i, value, count);
    });
  }
}

// With e = gradient of (normalised u times weight), r = 1/rms and uhat = u r:
//   du = r (weight e - uhat mean(weight e uhat)),  dweight = sum over rows of e uhat.
// Both sums of the first pass are over u instead of uhat, as r is not known yet.
template <typename T, Form form>
void bwd_rows(const RmsNormParams& p, const NormBackward<T>& a, T* dweight, int64_t begin,
              int64_t end) {
  using V = Vec<T>;
  constexpr bool gated = form == Form::kGateBefore || form == Form::kGateAfter;
  for (int64_t part = begin * p.groups; part < end * p.groups; ++part) {
    const int64_t row = part / p.groups, first = (part % p.groups) * p.group_size;
    const T* dy = a.dy.data + row * a.dy.stride + first;
    const T* x = a.x.data + row * a.x.stride + first;
    const T* z = gated ? a.z.data + row * a.z.stride + first : nullptr;
    const T* dsum = form == Form::kAdd ? a.dsum.data + row * a.dsum.stride + first : nullptr;
    const T* weight = a.weight + first;
    T* dx = a.dx + part * p.group_size;
    T* dz = gated ? a.dz + part * p.group_size : nullptr;
    T* dw = dweight ? dweight + first : nullptr;

    V squares[kSums] = {}, products[kSums] = {};
    for_vectors<T>(p.group_size, [&](int64_t i, int count, int slot) {
      V u = load_upto<T>(x + i, count), e = load_upto<T>(dy + i, count);
      if constexpr (gated) {
        const V zi = load_upto<T>(z + i, count), s = sigmoid(zi);
        store_upto<T>(dz + i, s, count);  // kept for the second pass
        (form == Form::kGateBefore ? u : e) *= zi * s;
      }
      squares[slot] += u * u;
      products[slot] += load_upto<T>(weight + i, count) * e * u;
    });
    const T r = inverse_rms<T>(total<T>(squares), p);
    const T mean = total<T>(products) * r / static_cast<T>(p.group_size);

    for_vectors<T>(p.group_size, [&](int64_t i, int count, int) {
      const V xi = load_upto<T>(x + i, count), dyi = load_upto<T>(dy + i, count);
      const V w = load_upto<T>(weight + i, count);
      V uhat = xi * r, e = dyi, gate = {}, slope = {};
      if constexpr (gated) {
        const V zi = load_upto<T>(z + i, count), s = load_upto<T>(dz + i, count);
        gate = zi * s;
        slope = s * (1 + zi * (1 - s));
        (form == Form::kGateBefore ? uhat : e) *= gate;
      }
      V du = r * (w * e - uhat * mean);
      if (dw) store_upto<T>(dw + i, load_upto<T>(dw + i, count) + e * uhat, count);
      if constexpr (form == Form::kGateBefore) {
        store_upto<T>(dz + i, du * xi * slope, count);
        du *= gate;
      }
      if constexpr (form == Form::kGateAfter) store_upto<T>(dz + i, dyi * uhat * w * slope, count);
      if constexpr (form == Form::kAdd) du += load_upto<T>(dsum + i, count);
      store_upto<T>(dx + i, du, count);
    });
  }
}

template <typename T>
void fwd(const RmsNormParams& p, const NormForward<T>& a, int64_t begin, int64_t end) {
  if (a.residual.data) return fwd_rows<T, Form::kAdd>(p, a, begin, end);
  if (!a.z.data) return fwd_rows<T, Form::kPlain>(p, a, begin, end);
  if (p.norm_before_gate) return fwd_rows<T, Form::kGateAfter>(p, a, begin, end);
  fwd_rows<T, Form::kGateBefore>(p, a, begin, end);
}

template <typename T>
void bwd(const RmsNormParams& p, const NormBackward<T>& a, T* dweight, int64_t begin, int64_t end) {
  if (a.dsum.data) return bwd_rows<T, Form::kAdd>(p, a, dweight, begin, end);
  if (!a.z.data) return bwd_rows<T, Form::kPlain>(p, a, dweight, begin, end);
  if (p.norm_before_gate) return bwd_rows<T, Form::kGateAfter>(p, a, dweight, begin, end);
  bwd_rows<T, Form::kGateBefore>(p, a, dweight, begin, end);
}

template <typename T>
void add_up(const T* partial, int64_t blocks, int64_t channels, T* out) {
  for (int64_t c = 0; c < channels; ++c) out[c] = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const T* row = partial + block * channels;
    for (int64_t c = 0; c < channels; ++c) out[c] += row[c];
  }
}

}  // namespace

template <typename T>
const RmsNormKernels<T>& rms_norm_kernels() {
  static constexpr RmsNormKernels<T> table{fwd<T>, bwd<T>, add_up<T>};
  return table;
}
template const RmsNormKernels<float>& rms_norm_kernels<float>();
template const RmsNormKernels<double>& rms_norm_kernels<double>();

}  // namespace aspis::ops::ASPIS_ISA
