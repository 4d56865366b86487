// aspis config show|check|docs
#include <cstdio>

#include "apps/commands.h"
#include "train/config_docs.h"
#include "train/run_config.h"

namespace aspis::apps {

void add_config(CLI::App& app) {
  CLI::App* config = app.add_subcommand("config", "Reads a run config and says what it means.");
  config->require_subcommand(1);

  static std::string file;
  static std::vector<std::string> assignments;
  const auto with_file = [](CLI::App* command) {
    command->add_option("CONFIG", file, "Run config, a JSON file")->required();
    command->add_option("--set", assignments, "Changes a key: --set optim.lr=3e-4 (repeatable)")
        ->take_all();
  };

  CLI::App* show = config->add_subcommand("show", "Prints every key with its value.");
  with_file(show);
  show->callback([] {
    std::fputs(train::resolved_text(train::read_run_config(file, assignments)).c_str(), stdout);
  });

  CLI::App* check =
      config->add_subcommand("check", "Reads the config and builds its model on paper.");
  with_file(check);
  check->callback([] {
    train::check_run_config(train::read_run_config(file, assignments));
    std::printf("%s: ok\n", file.c_str());
  });

  config->add_subcommand("docs", "Prints the table of all keys (docs/config.md).")->callback([] {
    std::fputs(train::config_documentation().c_str(), stdout);
  });
}

}  // namespace aspis::apps
