#pragma once
// Which device a model runs on, and the sentence that says why.

#include <c10/core/Device.h>

#include <string>
#include <vector>

namespace aspis::train {

struct DeviceChoice {
  c10::Device device;
  std::string reason;  // "cpu: no CUDA kernel yet for ssd, causal_conv1d"
};

// wanted: "auto", "cpu" or "cuda". `ops` are those that the model calls; with reference
// implementations (chosen by the user) any device will do. Throws ConfigError when "cuda" cannot be
// had.
DeviceChoice choose_device(const std::string& wanted, const std::vector<std::string>& ops,
                           bool reference);

}  // namespace aspis::train
