#include "ops/op_table.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace aspis::ops {

const std::vector<OpEntry>& op_table() {
  static const std::vector<OpEntry> table = {
      {"causal_conv1d", {"_causal_conv1d_fwd", "_causal_conv1d_bwd"}, "causal_conv1d_ref"},
      {"selective_scan", {"_selective_scan_fwd", "_selective_scan_bwd"}, "selective_scan_ref"},
      {"ssd", {"_ssd_fwd", "_ssd_bwd"}, "ssd_ref"},
      {"rms_norm", {"_rms_norm_fwd", "_rms_norm_bwd"}, "rms_norm_ref"},
      {"add_rms_norm", {"_add_rms_norm_fwd", "_add_rms_norm_bwd"}, "add_rms_norm_ref"},
      {"gated_rms_norm", {"_gated_rms_norm_fwd", "_gated_rms_norm_bwd"}, "gated_rms_norm_ref"},
      {"linear_cross_entropy",
       {"_linear_cross_entropy_fwd", "_linear_cross_entropy_bwd"},
       "linear_cross_entropy_ref"},
      {"token_nll", {"token_nll"}, "token_nll_ref"},
      {"causal_conv1d_step", {"causal_conv1d_step"}, "causal_conv1d_step_ref"},
      {"selective_scan_step", {"selective_scan_step"}, "selective_scan_step_ref"},
      {"ssd_step", {"ssd_step"}, "ssd_step_ref"},
  };
  return table;
}

bool has_kernels(const std::string& name, c10::DispatchKey key) {
  const auto& table = op_table();
  const auto entry =
      std::find_if(table.begin(), table.end(), [&](const OpEntry& op) { return op.name == name; });
  TORCH_INTERNAL_ASSERT(entry != table.end(), "no op called ", name);
  return std::all_of(entry->kernels.begin(), entry->kernels.end(), [&](const std::string& kernel) {
    const auto handle = c10::Dispatcher::singleton().findSchema({"aspis::" + kernel, ""});
    return handle && handle->hasKernelForDispatchKey(key);
  });
}

const char* ops_library_version() {
  return ASPIS_VERSION;
}

}  // namespace aspis::ops
