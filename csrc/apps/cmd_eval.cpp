// aspis eval
#include <cstdio>

#include "apps/commands.h"
#include "train/trained_model.h"
#include "train/validation.h"

namespace aspis::apps {
namespace {

struct EvalOptions {
  std::string path;
  std::string device = "auto";
  data::DataConfig data;
  int64_t max_tokens = 0;
};

void evaluate(const EvalOptions& options) {
  const train::TrainedModel trained = train::load_trained_model(options.path, options.device);
  const data::ValidationRows rows(options.data, trained.model->config().vocab_size,
                                  options.max_tokens);
  const double bpb =
      train::bits_per_byte(*trained.model, trained.device.device, rows, *trained.tokenizer);
  std::printf("%.4f bits per byte over %lld tokens of %s (%s)\n", bpb,
              static_cast<long long>(rows.tokens()), options.data.validation.c_str(),
              trained.folder.c_str());
}

}  // namespace

void add_eval(CLI::App& app) {
  static EvalOptions options;
  CLI::App* command = app.add_subcommand("eval", "Bits per byte of a trained model on a shard.");
  command->add_option("RUN", options.path, "Run folder or checkpoint folder")->required();
  command->add_option("--data", options.data.validation, "PREFIX of the shard")->required();
  command->add_option("--seq-len", options.data.seq_len, "Tokens per row")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--max-tokens", options.max_tokens, "From the start of the shard; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--device", options.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->callback([] { evaluate(options); });
}

}  // namespace aspis::apps
