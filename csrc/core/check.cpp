#include "core/check.h"

#include <c10/util/Exception.h>

#include <sstream>

namespace aspis {

std::string shape_string(const at::Tensor& tensor) {
  std::ostringstream out;
  out << '(';
  const char* separator = "";
  for (const auto& size : tensor.sym_sizes()) {
    out << separator << size;
    separator = ", ";
  }
  out << ')';
  return out.str();
}

void check_shape(const char* op, const char* arg, const at::Tensor& tensor,
                 std::initializer_list<Dim> wanted) {
  bool equal = tensor.dim() == static_cast<int64_t>(wanted.size());
  if (equal) {
    int64_t i = 0;
    for (const Dim& dim : wanted) equal = equal && tensor.sym_size(i++) == dim.size;
  }
  if (equal) return;
  std::ostringstream text;
  const char* separator = "";
  for (const Dim& dim : wanted) {
    text << separator << dim.letter << '=' << dim.size;
    separator = ", ";
  }
  TORCH_CHECK(false, op, ": ", arg, " must be (", text.str(), "), got ", shape_string(tensor));
}

void check_dim(const char* op, const char* arg, const at::Tensor& tensor, int64_t dim,
               const char* letters) {
  TORCH_CHECK(tensor.dim() == dim, op, ": ", arg, " must be ", letters, ", got ",
              shape_string(tensor));
}

void check_floating(const char* op, const char* arg, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK(
      type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf, op,
      ": ", arg, " must be float32, float64, bfloat16 or float16, got ", c10::toString(type));
}

void check_dtype(const char* op, const char* arg, const at::Tensor& tensor, at::ScalarType wanted,
                 const char* why) {
  TORCH_CHECK(tensor.scalar_type() == wanted, op, ": ", arg, " must be ", c10::toString(wanted),
              " (", why, "), got ", c10::toString(tensor.scalar_type()));
}

void check_parameter_dtype(const char* op, const char* arg, const at::Tensor& tensor,
                           at::ScalarType input) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK(type == input || (type == at::kFloat && input != at::kDouble), op, ": ", arg,
              " must be ", c10::toString(input), " (x's dtype)",
              input == at::kDouble ? "" : " or Float", ", got ", c10::toString(type));
}

void check_same_device(const char* op, const char* arg, const at::Tensor& tensor,
                       const char* other_arg, const at::Tensor& other) {
  TORCH_CHECK(tensor.device() == other.device(), op, ": ", arg, " must be on ", other.device(),
              " like ", other_arg, ", got ", tensor.device());
}

void check_shape(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                 std::initializer_list<Dim> wanted) {
  if (tensor) check_shape(op, arg, *tensor, wanted);
}

void check_dtype(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                 at::ScalarType wanted, const char* why) {
  if (tensor) check_dtype(op, arg, *tensor, wanted, why);
}

void check_parameter_dtype(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                           at::ScalarType input) {
  if (tensor) check_parameter_dtype(op, arg, *tensor, input);
}

void check_same_device(const char* op, const char* arg, const std::optional<at::Tensor>& tensor,
                       const char* other_arg, const at::Tensor& other) {
  if (tensor) check_same_device(op, arg, *tensor, other_arg, other);
}

}  // namespace aspis
