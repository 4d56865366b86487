#include "train/device.h"

#include "config/json.h"
#include "core/devices.h"
#include "core/error.h"
#include "ops/op_table.h"

namespace aspis::train {

DeviceChoice choose_device(const std::string& wanted, const std::vector<std::string>& ops,
                           bool reference) {
  if (wanted == "cpu") return {c10::Device("cpu"), "cpu: asked for (" + cpu_description() + ")"};
  const auto gpus = gpu_descriptions();
  const std::string no_gpu = built_with_cuda()
                                 ? "no GPU is visible"
                                 : "this build has no CUDA code (no nvcc when it was made)";
  std::vector<std::string> missing;
  for (const std::string& op : ops) {
    if (!reference && !ops::has_kernels(op, c10::DispatchKey::CUDA)) missing.push_back(op);
  }
  const std::string no_kernel = "no CUDA kernel in this build for " + config::joined(missing);
  if (wanted == "cuda") {
    if (gpus.empty()) {
      throw ConfigError("train.device: \"cuda\" cannot be had: " + no_gpu,
                        "use \"cpu\", or \"auto\" to take what is there");
    }
    if (!missing.empty()) {
      throw ConfigError(
          "train.device: \"cuda\" cannot be had: " + no_kernel,
          "use \"cpu\", or choose slow reference implementations: \"ops\": \"reference\" in "
          "the model");
    }
    return {c10::Device(c10::kCUDA, 0), "cuda: asked for (" + gpus[0] + ")"};
  }
  if (gpus.empty()) return {c10::Device("cpu"), "cpu: " + no_gpu + " (" + cpu_description() + ")"};
  if (!missing.empty()) {
    return {c10::Device("cpu"), "cpu: " + no_kernel + " (" + cpu_description() + ")"};
  }
  return {c10::Device(c10::kCUDA, 0),
          "cuda: every op of the model has a kernel there (" + gpus[0] + ")"};
}

}  // namespace aspis::train
