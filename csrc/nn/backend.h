#pragma once
// One call per sequence op that goes to the kernels or to the reference, as the user chose.

#include <tuple>

#include "nn/mixer.h"
#include "ops/causal_conv1d/causal_conv1d.h"
#include "ops/gated_rms_norm/gated_rms_norm.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/selective_scan/selective_scan.h"
#include "ops/ssd/ssd.h"

namespace aspis::nn {

// Up to so many tokens a cached call goes token by token, its states updated in place; above, the
// sequence ops (which make new states) are quicker.
constexpr int64_t kMostStepTokens = 8;

inline std::tuple<at::Tensor, at::Tensor> causal_conv1d(OpsBackend backend,
                                                        const ops::CausalConv1dArgs& args) {
  return backend == OpsBackend::kKernels ? ops::causal_conv1d(args) : ops::causal_conv1d_ref(args);
}

inline at::Tensor causal_conv1d_step(OpsBackend backend, const ops::CausalConv1dStepArgs& args) {
  return backend == OpsBackend::kKernels ? ops::causal_conv1d_step(args)
                                         : ops::causal_conv1d_step_ref(args);
}

inline std::tuple<at::Tensor, at::Tensor> selective_scan(OpsBackend backend,
                                                         const ops::SelectiveScanArgs& args) {
  return backend == OpsBackend::kKernels ? ops::selective_scan(args)
                                         : ops::selective_scan_ref(args);
}

inline at::Tensor selective_scan_step(OpsBackend backend, const ops::SelectiveScanStepArgs& args) {
  return backend == OpsBackend::kKernels ? ops::selective_scan_step(args)
                                         : ops::selective_scan_step_ref(args);
}

inline std::tuple<at::Tensor, at::Tensor> ssd(OpsBackend backend, const ops::SsdArgs& args) {
  return backend == OpsBackend::kKernels ? ops::ssd(args) : ops::ssd_ref(args);
}

inline at::Tensor ssd_step(OpsBackend backend, const ops::SsdStepArgs& args) {
  return backend == OpsBackend::kKernels ? ops::ssd_step(args) : ops::ssd_step_ref(args);
}

inline at::Tensor rms_norm(OpsBackend backend, const ops::RmsNormArgs& args) {
  return backend == OpsBackend::kKernels ? ops::rms_norm(args) : ops::rms_norm_ref(args);
}

inline at::Tensor gated_rms_norm(OpsBackend backend, const ops::GatedRmsNormArgs& args) {
  return backend == OpsBackend::kKernels ? ops::gated_rms_norm(args)
                                         : ops::gated_rms_norm_ref(args);
}

}  // namespace aspis::nn
