#include "train/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace aspis::train {

std::string clock_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  const auto whole = static_cast<long long>(std::llround(std::min(seconds, 1e9)));
  char out[32];
  if (whole >= 3600) {
    std::snprintf(out, sizeof(out), "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
                  whole % 60);
  } else {
    std::snprintf(out, sizeof(out), "%lld:%02lld", whole / 60, whole % 60);
  }
  return out;
}

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() {
  finish();
}

void ProgressLine::show(const Progress& p, bool due) {
  const auto now = std::chrono::steady_clock::now();
  if (terminal_ ? now - last_ < std::chrono::milliseconds(100) && !due : !due) return;
  last_ = now;
  std::fprintf(stderr,
               "%sstep %lld/%lld  loss %.4f  lr %.3g  grad norm %.3g  %.0f tokens/s  ETA %s%s",
               terminal_ ? "\r\033[K" : "", static_cast<long long>(p.step),
               static_cast<long long>(p.total_steps), p.loss, p.lr, p.grad_norm, p.tokens_per_s,
               clock_text(p.seconds_left).c_str(), terminal_ ? "" : "\n");
  std::fflush(stderr);
  open_ = terminal_;
}

void ProgressLine::finish() {
  if (open_) std::fputc('\n', stderr);
  open_ = false;
}

}  // namespace aspis::train
