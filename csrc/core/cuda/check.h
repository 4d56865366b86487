#pragma once
// Host words for `<op>_cuda.cpp` files.

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "core/dispatch.h"

namespace aspis::cuda {

// Turns a launch's error code into an exception that names the launch.
inline void check(const char* launch, cudaError_t error) {
  TORCH_CHECK(error == cudaSuccess, launch, ": ", cudaGetErrorName(error), ", ",
              cudaGetErrorString(error));
}

// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check("cudaGetDevice", cudaGetDevice(&device));
  check("cudaDeviceGetAttribute",
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// float, half and bfloat16 as the device code spells them.
template <typename F>
void dispatch_device_type(const char* op, at::ScalarType type, F&& body) {
  switch (type) {
    case at::kFloat:
      return body(TypeTag<float>{});
    case at::kHalf:
      return body(TypeTag<__half>{});
    case at::kBFloat16:
      return body(TypeTag<__nv_bfloat16>{});
    default:
      TORCH_CHECK(false, "aspis::", op,
                  ": the CUDA kernel takes float32, float16 or bfloat16, got ", c10::toString(type),
                  "; float64 runs through aspis::", op, "_ref");
  }
}

}  // namespace aspis::cuda
