#include <ATen/ops/randn.h>

#include <set>

#include "ops/op_table.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/self_check.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;

TEST_CASE("self check: every op of the table, each within its bound on the CPU") {
  std::set<std::string> checked;
  for (const SelfCheck& check : self_check(c10::Device("cpu"))) {
    INFO(check.op << " " << check.problem << " forward " << check.forward_error << " backward "
                  << check.backward_error);
    CHECK(check.passed);
    checked.insert(check.op);
  }
  for (const OpEntry& op : op_table()) CHECK(checked.count(op.name) == 1);
}

TEST_CASE("self check on a GPU: every op has a kernel that agrees, or says that it has none",
          "[.gpu]") {
  for (const SelfCheck& check : self_check(c10::Device(c10::kCUDA, 0))) {
    INFO(check.op << " " << check.problem);
    CHECK((check.passed || check.backend == "no kernel"));
  }
  if (!has_kernels("rms_norm", c10::DispatchKey::CUDA)) {
    CHECK(aspis::test::message_of([] {
            rms_norm({.x = at::randn({2, 8}).to(at::kCUDA)});
          }).find("aspis::rms_norm has no CUDA kernel in this build") != std::string::npos);
  }
}
