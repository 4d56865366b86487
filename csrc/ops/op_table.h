#pragma once
// The public ops, for the doctor command and for choosing a device: which kernels this build has.

#include <c10/core/DispatchKey.h>

#include <string>
#include <vector>

namespace aspis::ops {

struct OpEntry {
  std::string name;  // "ssd"
  std::vector<std::string>
      kernels;            // operators that need a kernel per device: "_ssd_fwd", "_ssd_bwd"
  std::string reference;  // "ssd_ref"
};

const std::vector<OpEntry>& op_table();

// Whether every kernel of the op is registered for the device key (CPU or CUDA).
bool has_kernels(const std::string& name, c10::DispatchKey key);

// Referenced by executables, so that the linker keeps the library that only registers things.
const char* ops_library_version();

}  // namespace aspis::ops
