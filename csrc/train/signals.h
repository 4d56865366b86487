#pragma once
// SIGINT and SIGTERM ask the loop to finish its step and save; a second one ends the process at
// once.

namespace aspis::train {

class SignalWatch {
 public:
  SignalWatch();   // takes over both signals
  ~SignalWatch();  // restores what was there
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // The signal that arrived, 0 if none did.
  int received() const;
};

}  // namespace aspis::train
