// aspis doctor
#include "apps/commands.h"
#include "train/doctor.h"

namespace aspis::apps {

void add_doctor(CLI::App& app) {
  app.add_subcommand("doctor",
                     "Prints versions and devices, and runs each op against its reference.")
      ->callback([] { train::run_doctor(); });
}

}  // namespace aspis::apps
