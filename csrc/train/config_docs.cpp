#include "train/config_docs.h"

#include <sstream>

#include "models/language_model.h"
#include "nn/mixer_registry.h"
#include "optim/schedule.h"

namespace aspis::train {
namespace {

// A cell of a Markdown table: bars would end it.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

void table(std::ostream& out, const std::vector<config::FieldInfo>& rows) {
  out << "| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
  for (const config::FieldInfo& row : rows) {
    out << "| `" << row.path << "` | " << cell(row.type) << " | "
        << (row.default_value.empty() ? "" : "`" + cell(row.default_value) + "`") << " | "
        << cell(row.doc) << " |\n";
  }
}

}  // namespace

std::string config_documentation() {
  std::ostringstream out;
  out << "# Config keys\n\n"
         "Generated from the code by `aspis config docs`; a test compares it with this page.\n\n"
         "A run is one JSON file. Unknown keys, keys given twice, 1.9 for an integer and values "
         "out of\n"
         "range are errors that name file, path and what is allowed. `aspis config show FILE` "
         "prints "
         "every key with\n"
         "its value, `aspis config check FILE` builds the model on paper, `--set optim.lr=3e-4` "
         "changes a "
         "key. Files in\n"
         "configs/models hold a `model` section alone.\n\n"
         "## Run\n\n";
  table(out, config::describe<RunConfig>());
  out << "\n## Layers\n\n"
         "Settings of a kind of layer stand in `model.blocks` under its pattern letter, or in one "
         "slot of\n"
         "`model.layer_pattern` (`{\"type\": \"*\", \"heads\": 8}`).\n";
  for (const nn::MixerKind* kind : nn::mixer_kinds()) {
    out << "\n### `" << kind->letter << "` " << kind->name << "\n\n" << kind->doc << "\n\n";
    table(out, kind->describe(""));
  }
  return out.str();
}

void check_run_config(const RunConfig& run) {
  optim::check_schedule(run.schedule, run.train.steps);
  const models::LanguageModel on_paper(run.model, at::TensorOptions().device("meta"));
}

}  // namespace aspis::train
