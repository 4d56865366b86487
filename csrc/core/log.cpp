#include "core/log.h"

#include <cstdio>
#include <mutex>
#include <utility>

namespace aspis {
namespace {

std::mutex mutex;
LogSink& sink() {
  static LogSink current;
  return current;
}

void write(LogLevel level, const std::string& line) {
  std::lock_guard<std::mutex> lock(mutex);
  if (sink()) {
    sink()(level, line);
    return;
  }
  std::fprintf(stderr, "%s%s\n", level == LogLevel::kWarning ? "warning: " : "", line.c_str());
}

}  // namespace

void log_info(const std::string& line) {
  write(LogLevel::kInfo, line);
}
void log_warning(const std::string& line) {
  write(LogLevel::kWarning, line);
}

LogSink set_log_sink(LogSink next) {
  std::lock_guard<std::mutex> lock(mutex);
  std::swap(sink(), next);
  return next;
}

}  // namespace aspis
