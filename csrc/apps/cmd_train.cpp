// aspis train
#include "apps/commands.h"
#include "train/trainer.h"

namespace aspis::apps {

void add_train(CLI::App& app) {
  static std::string file;
  static train::RunOptions options;
  static std::string folder;
  static std::vector<std::string> assignments;
  CLI::App* train = app.add_subcommand("train", "Trains a model from a run config.");
  train->add_option("CONFIG", file, "Run config, a JSON file")->required();
  train->add_option("--out", folder, "Run folder; it must be new, or hold this run with --resume")
      ->required();
  train->add_flag("--resume", options.resume, "Go on from the newest complete checkpoint");
  train->add_option("--set", assignments, "Changes a key: --set optim.lr=3e-4 (repeatable)")
      ->take_all();
  train->callback([] {
    options.folder = folder;
    train::train(train::read_run_config(file, assignments), options);
  });
}

}  // namespace aspis::apps
