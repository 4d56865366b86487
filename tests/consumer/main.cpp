// Calls one op by its C++ name and finds every op through the dispatcher.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/ones.h>

#include <cstdio>

#include "ops/op_table.h"
#include "ops/rms_norm/rms_norm.h"

int main() {
  for (const aspis::ops::OpEntry& op : aspis::ops::op_table()) {
    if (!c10::Dispatcher::singleton().findSchema({"aspis::" + op.name, ""})) {
      std::printf("aspis::%s is not registered\n", op.name.c_str());
      return 1;
    }
  }
  const at::Tensor y = aspis::ops::rms_norm({.x = at::ones({2, 8})});
  std::printf("aspis %s: %zu ops\n", aspis::ops::ops_library_version(),
              aspis::ops::op_table().size());
  return y.sum().item<float>() > 15.9f ? 0 : 1;
}
