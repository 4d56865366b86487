#include "checkpoint/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace aspis::checkpoint {

namespace fs = std::filesystem;

namespace {

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

}  // namespace

DurableFile::DurableFile(const fs::path& file)
    : file_(file), temporary_(file.string() + ".tmp" + std::to_string(::getpid())) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("cannot be created");
}

DurableFile::~DurableFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void DurableFile::fail(const std::string& what) const {
  const std::string reason = std::strerror(errno);
  throw DataError(file_.string() + ": " + what + ": " + reason,
                  errno == ENOSPC ? "free some disk space" : "");
}

void DurableFile::write(const void* bytes, size_t count) {
  constexpr size_t kMost = size_t{1} << 30;  // the system takes less than 2 GiB at a time
  const auto* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::write(descriptor_, at, std::min(count, kMost));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot be written");
    at += written;
    count -= static_cast<size_t>(written);
  }
}

void DurableFile::commit() {
  if (::fsync(descriptor_) != 0) fail("cannot be flushed to disk");
  if (::rename(temporary_.c_str(), file_.c_str()) != 0) fail("cannot be renamed into place");
  ::close(descriptor_);
  descriptor_ = -1;
  sync_folder(folder_of(file_));
}

void write_text_durably(const fs::path& file, const std::string& text) {
  DurableFile out(file);
  out.write(text.data(), text.size());
  out.commit();
}

void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw DataError(folder.string() + ": cannot be opened: " + std::strerror(errno));
  }
  const int result = ::fsync(descriptor);
  const int reason = errno;
  ::close(descriptor);
  // Some network file systems cannot flush a folder and say so; their renames are already safe.
  if (result != 0 && reason != EINVAL && reason != ENOTSUP) {
    throw DataError(folder.string() + ": cannot be flushed to disk: " + std::strerror(reason));
  }
}

}  // namespace aspis::checkpoint
