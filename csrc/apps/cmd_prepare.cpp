// aspis prepare
#include <unistd.h>

#include <cstdio>

#include "apps/commands.h"
#include "data/prepare.h"

namespace aspis::apps {

void add_prepare(CLI::App& app) {
  static data::PrepareOptions options;
  static std::string list;
  CLI::App* command = app.add_subcommand(
      "prepare", "Turns text files into token shards, split into training and validation by file.");
  command
      ->add_option("--glob", options.globs,
                   "Pattern of files; ** is any number of folders (repeatable)")
      ->take_all();
  command->add_option("--list", list, "File with one path per line");
  command->add_option("--out", options.prefix, "PREFIX of PREFIX_train.bin and so on")->required();
  command->add_option("--tokenizer", options.tokenizer, "Name of a tokenizer")
      ->capture_default_str();
  command
      ->add_option("--validation-share", options.validation_share,
                   "Share of the bytes that goes to validation, by whole files")
      ->capture_default_str();
  command->add_option("--seed", options.seed, "Of the split")->capture_default_str();
  command->add_flag("--force", options.force, "Replace shards of the same name");
  command->callback([] {
    if (!list.empty()) options.files = data::read_file_list(list);
    const bool terminal = isatty(STDERR_FILENO) != 0;
    if (terminal) {
      options.progress = [](const data::PrepareProgress& p) {
        std::fprintf(stderr, "\r\033[K%s %lld of %lld files, %.1f MB",
                     p.writing ? "writing" : "reading", static_cast<long long>(p.files_done),
                     static_cast<long long>(p.files), static_cast<double>(p.bytes_done) / 1e6);
      };
    }
    const data::ShardInfo info = data::prepare(options);
    if (terminal) std::fputs("\r\033[K", stderr);
    std::fputs(data::report_text(info, options.prefix).c_str(), stdout);
  });
}

}  // namespace aspis::apps
