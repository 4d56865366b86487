#pragma once
// Plain lines on stderr. A test can take the lines instead; a warning that it does not expect fails
// it.

#include <functional>
#include <string>

namespace aspis {

enum class LogLevel { kInfo, kWarning };

void log_info(const std::string& line);
void log_warning(const std::string& line);

// Sends lines to `sink` instead of stderr; an empty function restores stderr. Returns the former
// sink.
using LogSink = std::function<void(LogLevel, const std::string&)>;
LogSink set_log_sink(LogSink sink);

}  // namespace aspis
