#pragma once
// From tensors (..., d) of any strides and dtype to the row kernels of rms_norm_kernel.h, threaded.
// The three norm ops hand over their tensors here and get results in their own dtypes.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace aspis::ops {

struct NormTensors {
  at::Tensor x;                                       // (..., d)
  std::optional<at::Tensor> residual = std::nullopt;  // (..., d)
  std::optional<at::Tensor> z = std::nullopt;         // (..., d)
  std::optional<at::Tensor> weight = std::nullopt;    // (d)
  double eps = 1e-5;
  std::optional<int64_t> group_size = std::nullopt;
  bool norm_before_gate = false;
};

// Writes y (..., d) and, where there is a residual, sum (..., d) = x + residual, each in its own
// dtype.
void norm_forward_cpu(const NormTensors& in, at::Tensor& y, const std::optional<at::Tensor>& sum);

struct NormGradients {
  at::Tensor dx;                                // (..., d) in the dtype asked for
  std::optional<at::Tensor> dz = std::nullopt;  // (..., d), where there is a gate
  at::Tensor dweight;                           // (d), 0 elements unless needed
};

// `in.x` is what was normalised (the sum, where something was added) and `in.residual` is not read;
// dsum is added to dx. dx has x's stride order and dtype `dx_type`.
NormGradients norm_backward_cpu(const at::Tensor& dy, const std::optional<at::Tensor>& dsum,
                                const NormTensors& in, at::ScalarType dx_type, bool need_dweight);

}  // namespace aspis::ops
