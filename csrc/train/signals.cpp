#include "train/signals.h"

#include <csignal>

namespace aspis::train {
namespace {

volatile std::sig_atomic_t arrived = 0;
using Handler = void (*)(int);
Handler former_int = SIG_DFL, former_term = SIG_DFL;

void handle(int signal) {
  if (arrived != 0) {  // the second one: leave at once
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  arrived = signal;
}

}  // namespace

SignalWatch::SignalWatch() {
  arrived = 0;
  former_int = std::signal(SIGINT, handle);
  former_term = std::signal(SIGTERM, handle);
}

SignalWatch::~SignalWatch() {
  std::signal(SIGINT, former_int);
  std::signal(SIGTERM, former_term);
}

int SignalWatch::received() const {
  return arrived;
}

}  // namespace aspis::train
