#pragma once
// Shape, dtype and device checks whose messages name op, argument, what is wanted and what was
// found:
//   selective_scan: delta must be (b=2, l=64, d=16), got (2, 63, 16)
// They read symbolic sizes, so CPU, CUDA and Meta kernels share them.

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <initializer_list>
#include <optional>
#include <string>

namespace aspis {

// A dimension by its letter (design: b batch, l length, d channels, n state, h heads, p head size,
// g groups, w conv width, v vocabulary, t tokens).
struct Dim {
  const char* letter;
  c10::SymInt size;
};

// "(2, 63, 16)"
std::string shape_string(const at::Tensor& tensor);

// Throws unless `tensor` has exactly these sizes.
void check_shape(const char* op, const char* arg, const at::Tensor& tensor,
                 std::initializer_list<Dim> wanted);
void check_shape(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                 std::initializer_list<Dim> wanted);

// Throws unless `tensor` has as many dimensions as `letters` names, e.g. "(b, l, d)".
void check_dim(const char* op, const char* arg, const at::Tensor& tensor, int64_t dim,
               const char* letters);

// Throws unless the dtype is float32, float64, bfloat16 or float16.
void check_floating(const char* op, const char* arg, const at::Tensor& tensor);

// Throws unless the dtype is `wanted` (`why` says whose dtype that is: "x's dtype").
void check_dtype(const char* op, const char* arg, const at::Tensor& tensor, at::ScalarType wanted,
                 const char* why);
void check_dtype(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                 at::ScalarType wanted, const char* why);

// Parameters that stay precise beside half inputs (A, D, biases): the dtype must be `input` itself
// or float32.
void check_parameter_dtype(const char* op, const char* arg, const at::Tensor& tensor,
                           at::ScalarType input);
void check_parameter_dtype(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                           at::ScalarType input);

// Throws unless `tensor` lies on the device of `other` (named `other_arg`).
void check_same_device(const char* op, const char* arg, const at::Tensor& tensor,
                       const char* other_arg, const at::Tensor& other);
void check_same_device(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                       const char* other_arg, const at::Tensor& other);

}  // namespace aspis
