#include "core/devices.h"

#include <ATen/Parallel.h>

#include <cstdio>
#include <fstream>

#ifdef ASPIS_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace aspis {

bool built_with_cuda() {
#ifdef ASPIS_WITH_CUDA
  return true;
#else
  return false;
#endif
}

std::vector<std::string> gpu_descriptions() {
  std::vector<std::string> out;
#ifdef ASPIS_WITH_CUDA
  int count = 0, driver = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return out;
  cudaDriverGetVersion(&driver);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    char line[384];
    std::snprintf(line, sizeof(line), "%s, compute capability %d.%d, %.1f GiB, driver %d.%d",
                  properties.name, properties.major, properties.minor,
                  static_cast<double>(properties.totalGlobalMem) / (1024.0 * 1024.0 * 1024.0),
                  driver / 1000, driver % 1000 / 10);
    out.push_back(line);
  }
#endif
  return out;
}

std::string cpu_description() {
  std::string name = "unknown processor", line;
  std::ifstream info("/proc/cpuinfo");
  while (std::getline(info, line)) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      name = line.substr(colon + 2);
      break;
    }
  }
  return name + ", " + std::to_string(at::get_num_threads()) + " threads";
}

}  // namespace aspis
