// main() of every test program. A warning that a test did not expect fails it.
#define CATCH_CONFIG_RUNNER
#include "support/catch.h"

#include <string>

#include "core/log.h"
#include "ops/op_table.h"

int main(int argc, char** argv) {
  (void)aspis::ops::ops_library_version();  // keeps the library that only registers things
  aspis::set_log_sink([](aspis::LogLevel level, const std::string& line) {
    if (level == aspis::LogLevel::kWarning) FAIL_CHECK("unexpected warning: " << line);
  });
  return Catch::Session().run(argc, argv);
}
