#pragma once
// What a person sees of a run on stderr: one live line on a terminal, plain lines elsewhere.

#include <chrono>
#include <cstdint>
#include <string>

namespace aspis::train {

struct Progress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double loss = 0;  // nats per token
  double lr = 0;
  double grad_norm = 0;
  double tokens_per_s = 0;
  double seconds_left = 0;
};

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();  // leaves the last live line standing

  // Rewrites the live line (at most ten times a second), or with `due` prints a plain line.
  void show(const Progress& progress, bool due);
  // Ends a live line, so that other output starts on a line of its own.
  void finish();

 private:
  const bool terminal_;
  bool open_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// "1:05", "2:03:04"
std::string clock_text(double seconds);

}  // namespace aspis::train
