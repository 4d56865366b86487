#pragma once
// What this process can run on, for the doctor and for choosing a device.

#include <string>
#include <vector>

namespace aspis {

// "NVIDIA H100 80GB HBM3, compute capability 9.0, 79.6 GiB, driver 13.0" for each visible GPU.
// Empty without a GPU, and always in a build without CUDA.
std::vector<std::string> gpu_descriptions();

// Whether this build holds CUDA code.
bool built_with_cuda();

// The processor's name and number of threads in use: "AMD EPYC, 2 threads".
std::string cpu_description();

}  // namespace aspis
