// main() of every test program. A warning that a test did not expect fails it.
#define CATCH_CONFIG_RUNNER
#include "support/catch.h"

#include <ATen/Context.h>

#include <string>

#include "core/log.h"
#include "ops/op_table.h"

namespace {

// Every test case draws the same numbers, whichever others run before it.
#if __has_include(<catch2/catch_all.hpp>)
class SeedEachCase : public Catch::EventListenerBase {
#else
class SeedEachCase : public Catch::TestEventListenerBase {
#endif
 public:
#if __has_include(<catch2/catch_all.hpp>)
  using EventListenerBase::EventListenerBase;
#else
  using TestEventListenerBase::TestEventListenerBase;
#endif
  void testCaseStarting(const Catch::TestCaseInfo&) override {
    at::manual_seed(20240607);
  }
};
CATCH_REGISTER_LISTENER(SeedEachCase)

}  // namespace

int main(int argc, char** argv) {
  (void)aspis::ops::ops_library_version();  // keeps the library that only registers things
  aspis::set_log_sink([](aspis::LogLevel level, const std::string& line) {
    if (level == aspis::LogLevel::kWarning) FAIL_CHECK("unexpected warning: " << line);
  });
  return Catch::Session().run(argc, argv);
}
