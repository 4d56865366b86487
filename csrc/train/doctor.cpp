#include "train/doctor.h"

#include <torch/version.h>

#include <cstdio>
#include <stdexcept>

#include "core/cpu/isa.h"
#include "core/devices.h"
#include "ops/op_table.h"
#include "ops/self_check.h"

namespace aspis::train {
namespace {

// Prints one row per op; returns how many failed.
int print_checks(c10::Device device) {
  int failed = 0;
  std::printf("\n%-22s %-12s %12s %12s\n", ("ops on " + device.str()).c_str(), "kernel", "forward",
              "backward");
  for (const ops::SelfCheck& check : ops::self_check(device)) {
    if (check.backend == "no kernel") {
      std::printf("%-22s %-12s\n", check.op.c_str(), "none");
      continue;
    }
    std::printf("%-22s %-12s %12.1e %12.1e  %s\n", check.op.c_str(), check.backend.c_str(),
                check.forward_error, check.backward_error, check.passed ? "ok" : "WRONG");
    if (!check.problem.empty()) std::printf("    %s\n", check.problem.c_str());
    failed += !check.passed;
  }
  return failed;
}

}  // namespace

void run_doctor() {
  std::printf("aspis      %s\n", ops::ops_library_version());
  std::printf("torch      %s\n", TORCH_VERSION);
#ifdef ASPIS_WITH_CUDA
  std::printf("CUDA code  yes, for architectures %s\n", ASPIS_CUDA_ARCHITECTURES);
#else
  std::printf("CUDA code  none (no nvcc when this was built)\n");
#endif
  std::printf("CPU        %s, kernels for %s\n", cpu_description().c_str(),
              cpu::isa_name(cpu::isa()));
  const auto gpus = gpu_descriptions();
  for (size_t i = 0; i < gpus.size(); ++i) std::printf("GPU %zu      %s\n", i, gpus[i].c_str());
  if (gpus.empty()) std::printf("GPU        none\n");
  std::printf(
      "\nErrors are relative norms against the reference in float64; float32 kernels stay below "
      "1e-5.\n");
  int failed = print_checks(c10::Device("cpu"));
  if (!gpus.empty()) failed += print_checks(c10::Device(c10::kCUDA, 0));
  if (failed > 0) {
    throw std::runtime_error(std::to_string(failed) +
                             " ops disagree with their reference on this machine");
  }
}

}  // namespace aspis::train
