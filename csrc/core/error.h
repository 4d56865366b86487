#pragma once
// Exceptions that the command maps to exit codes. `hint` is the way out, printed on a line of its
// own.

#include <stdexcept>
#include <string>
#include <utility>

namespace aspis {

// Exit codes of the command. 0 is success, 1 anything unforeseen.
enum class ExitCode { kMisuse = 2, kConfig = 3, kData = 4, kNonFinite = 5, kStopped = 6 };

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what, std::string hint = "")
      : std::runtime_error(what), code_(code), hint_(std::move(hint)) {}
  ExitCode code() const { return code_; }
  const std::string& hint() const { return hint_; }

 private:
  ExitCode code_;
  std::string hint_;
};

// A wrong command line.
struct MisuseError : Error {
  explicit MisuseError(const std::string& what, std::string hint = "")
      : Error(ExitCode::kMisuse, what, std::move(hint)) {}
};

// A config that cannot be read or asks for something impossible.
struct ConfigError : Error {
  explicit ConfigError(const std::string& what, std::string hint = "")
      : Error(ExitCode::kConfig, what, std::move(hint)) {}
};

// A file or data set that is missing, damaged or does not fit.
struct DataError : Error {
  explicit DataError(const std::string& what, std::string hint = "")
      : Error(ExitCode::kData, what, std::move(hint)) {}
};

// A loss or gradient that is not finite.
struct NonFiniteError : Error {
  explicit NonFiniteError(const std::string& what, std::string hint = "")
      : Error(ExitCode::kNonFinite, what, std::move(hint)) {}
};

// A signal ended the run after its state was saved.
struct StoppedError : Error {
  explicit StoppedError(const std::string& what, std::string hint = "")
      : Error(ExitCode::kStopped, what, std::move(hint)) {}
};

}  // namespace aspis
