// The `aspis` command: parses arguments, runs one subcommand, maps exceptions to exit codes
// (0 done, 1 unforeseen, 2 misuse, 3 config, 4 data or file, 5 not finite, 6 stopped by a signal
// after saving).
#include <c10/util/Exception.h>

#include <cstdio>

#include "apps/commands.h"
#include "core/error.h"
#include "ops/op_table.h"

namespace {

int report(const char* message, const std::string& hint, int code) {
  std::fprintf(stderr, "error: %s\n", message);
  if (!hint.empty()) std::fprintf(stderr, "hint: %s\n", hint.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace aspis;
  CLI::App app{
      "aspis: builds, trains and samples Mamba, Mamba-2, hybrid and Transformer language models."};
  app.name("aspis");
  app.set_version_flag("--version", ops::ops_library_version());
  app.require_subcommand(1);
  apps::add_prepare(app);
  apps::add_train(app);
  apps::add_eval(app);
  apps::add_generate(app);
  apps::add_inspect(app);
  apps::add_config(app);
  apps::add_doctor(app);
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return report(error.what(),
                  "aspis --help lists the commands, aspis COMMAND --help their options",
                  static_cast<int>(ExitCode::kMisuse));
  } catch (const Error& error) {
    return report(error.what(), error.hint(), static_cast<int>(error.code()));
  } catch (const c10::Error& error) {
    return report(error.what_without_backtrace(), "", 1);
  } catch (const std::exception& error) {
    return report(error.what(), "", 1);
  }
}
