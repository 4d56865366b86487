// aspis inspect
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "models/inspection.h"

namespace aspis::apps {

void add_inspect(CLI::App& app) {
  static std::string file;
  static models::InspectionOptions options;
  static bool as_json = false;
  CLI::App* inspect = app.add_subcommand(
      "inspect", "Counts parameters, cache bytes and FLOPs of a model, without memory for it.");
  inspect->add_option("MODEL", file, "Model config, a JSON file")->required();
  inspect->add_option("--seq-len", options.seq_len, "Context length for the FLOPs of attention")
      ->check(CLI::PositiveNumber);
  inspect->add_option("--kv-bytes", options.kv_bytes, "Bytes of an element of keys and values")
      ->check(CLI::PositiveNumber);
  inspect->add_option("--state-bytes", options.state_bytes, "Bytes of an element of an SSM state")
      ->check(CLI::PositiveNumber);
  inspect->add_flag("--json", as_json, "Print JSON instead of a table");
  inspect->callback([] {
    const models::Inspection result = models::inspect(models::load_model_config(file), options);
    if (as_json) {
      config::Json json;
      models::inspection_json(result, json);
      std::fputs(config::to_text(json).c_str(), stdout);
    } else {
      std::fputs(models::inspection_text(result).c_str(), stdout);
    }
  });
}

}  // namespace aspis::apps
