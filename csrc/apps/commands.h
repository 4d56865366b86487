#pragma once
// The subcommands of `aspis`. Each adds its options to the parser; its callback calls one function
// of a room.

#include <CLI/CLI.hpp>

namespace aspis::apps {

void add_config(CLI::App& app);
void add_doctor(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_inspect(CLI::App& app);
void add_prepare(CLI::App& app);
void add_train(CLI::App& app);

}  // namespace aspis::apps
