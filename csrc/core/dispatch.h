#pragma once
// Scalar type -> template argument, by generic lambda instead of macros:
//   dispatch_float_double("ssd", type, [&](auto tag) { using T = typename decltype(tag)::type; ...
//   });

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace aspis {

template <typename T>
struct TypeTag {
  using type = T;
};

// The two types in which CPU kernels compute.
template <typename F>
decltype(auto) dispatch_float_double(const char* op, at::ScalarType type, F&& body) {
  if (type == at::kDouble) return body(TypeTag<double>{});
  TORCH_CHECK(type == at::kFloat, op, ": expected float32 or float64, got ", c10::toString(type));
  return body(TypeTag<float>{});
}

// The type in which an op computes for inputs of this type: double for double, else float.
inline at::ScalarType compute_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace aspis
