// aspis generate
#include <unistd.h>

#include <cstdio>
#include <string>

#include "apps/commands.h"
#include "core/error.h"
#include "infer/generate.h"
#include "text/stream_decoder.h"
#include "train/trained_model.h"

namespace aspis::apps {
namespace {

struct GenerateOptions {
  std::string path;
  std::string prompt;
  std::string device = "auto";
  infer::GenerationRequest request;
};

void generate(const GenerateOptions& options) {
  const train::TrainedModel trained = train::load_trained_model(options.path, options.device);
  infer::GenerationRequest request = options.request;
  request.prompt = trained.tokenizer->encode(options.prompt);
  request.end_token = trained.tokenizer->end_of_document();
  // An empty prompt starts like a document: after the end of another one.
  if (request.prompt.empty()) request.prompt = {*request.end_token};
  const infer::Generator generator(*trained.model, {.vocab_used = trained.tokenizer->vocab_size()});
  text::StreamDecoder decoder(*trained.tokenizer);
  generator.generate({request}, [&](size_t, int64_t token, bool last) {
    if (token != *request.end_token) std::fputs(decoder.push(token).c_str(), stdout);
    if (last) std::fputs(decoder.finish().c_str(), stdout);
    std::fflush(stdout);
  });
  if (isatty(STDOUT_FILENO)) std::fputc('\n', stdout);
}

}  // namespace

void add_generate(CLI::App& app) {
  static GenerateOptions options;
  CLI::App* command =
      app.add_subcommand("generate", "Continues a prompt; prints what is new, as it comes.");
  command->add_option("RUN", options.path, "Run folder or checkpoint folder")->required();
  command->add_option("--prompt", options.prompt, "Text to continue (default: a new document)");
  command->add_option("--max-tokens", options.request.max_new_tokens, "Most new tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  auto& sampling = options.request.sampling;
  command->add_option("--temperature", sampling.temperature, "0 always takes the most likely token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "Only the k most likely tokens")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--top-p", sampling.top_p, "Only the most likely tokens that reach this share")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "Of the draws")->capture_default_str();
  command->add_option("--device", options.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->callback([] { generate(options); });
}

}  // namespace aspis::apps
