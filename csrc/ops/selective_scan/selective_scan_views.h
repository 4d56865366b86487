#pragma once
// Tensors as the views that the CPU kernels read. Tensors are those of the compute type already.

#include <ATen/core/Tensor.h>

#include <optional>
#include <type_traits>

#include "core/cpu/isa.h"
#include "ops/selective_scan/selective_scan_kernel.h"

namespace aspis::ops {

template <typename T>
const SelectiveScanKernels<T>& selective_scan_table() {
  return cpu::select(avx512::selective_scan_kernels<T>(), avx2::selective_scan_kernels<T>(),
                     generic::selective_scan_kernels<T>());
}

// T const: read only.
template <typename T>
T* scan_data(const at::Tensor& t) {
  if constexpr (std::is_const_v<T>) {
    return t.const_data_ptr<std::remove_const_t<T>>();
  } else {
    return t.data_ptr<T>();
  }
}

// An undefined tensor becomes a view without data.
template <typename T>
ScanView<T> scan_view(const at::Tensor& t) {  // (b, l, d)
  if (!t.defined()) return {};
  return {scan_data<T>(t), t.stride(0), t.stride(1), t.stride(2)};
}
template <typename T>
ScanGroupView<T> scan_group_view(const at::Tensor& t) {  // (b, l, g, n)
  return {scan_data<T>(t), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}
template <typename T>
ScanStateView<T> scan_state_view(const at::Tensor& t) {  // (slots, d, n)
  if (!t.defined()) return {};
  return {scan_data<T>(t), t.stride(0), t.stride(1), t.stride(2)};
}

// The inputs in the compute type; copies where the dtype differs. Absent ones are undefined.
struct ScanTensors {
  at::Tensor x, delta, z;    // (b, l, d)
  at::Tensor B, C;           // (b, l, g, n)
  at::Tensor A;              // (1, d, n)
  at::Tensor D, delta_bias;  // (d), contiguous
  at::Tensor initial;        // (slots, d, n)
  bool softplus = false;
};

template <typename Args>
ScanTensors scan_tensors(const Args& args, at::ScalarType type) {
  const auto cast = [&](const std::optional<at::Tensor>& t) {
    return t ? t->to(type) : at::Tensor();
  };
  const auto vector = [&](const std::optional<at::Tensor>& t) {
    return t ? t->to(type).contiguous() : at::Tensor();
  };
  return {cast(args.x),   cast(args.delta),
          cast(args.z),   cast(args.B),
          cast(args.C),   args.A.to(type).unsqueeze(0),
          vector(args.D), vector(args.delta_bias),
          at::Tensor(),   args.delta_softplus};
}

template <typename T>
ScanInputs<T> scan_inputs(const ScanTensors& t) {
  ScanInputs<T> in;
  const int64_t d = t.x.size(2), g = t.B.size(2);
  in.sizes = {d, t.B.size(3), g, (d / g + kScanChannelBlock - 1) / kScanChannelBlock};
  in.x = scan_view<const T>(t.x);
  in.delta = scan_view<const T>(t.delta);
  in.z = scan_view<const T>(t.z);
  in.B = scan_group_view<const T>(t.B);
  in.C = scan_group_view<const T>(t.C);
  in.A = scan_state_view<const T>(t.A);
  in.D = t.D.defined() ? t.D.const_data_ptr<T>() : nullptr;
  in.delta_bias = t.delta_bias.defined() ? t.delta_bias.const_data_ptr<T>() : nullptr;
  in.softplus = t.softplus;
  in.initial = scan_state_view<const T>(t.initial);
  return in;
}

}  // namespace aspis::ops
