#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace aspis::data {

MappedFile::MappedFile(const std::filesystem::path& file) {
  const auto fail = [&](int handle) {
    const std::string reason = std::strerror(errno);
    if (handle >= 0) ::close(handle);
    throw DataError(file.string() + ": cannot be read: " + reason);
  };
  // Without O_NONBLOCK opening a pipe would wait for its other end.
  const int handle = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (handle < 0) fail(handle);
  struct stat status = {};
  if (::fstat(handle, &status) != 0) fail(handle);
  if (!S_ISREG(status.st_mode)) {
    ::close(handle);
    throw DataError(file.string() + ": is not a regular file");
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, handle, 0);
    if (address == MAP_FAILED) fail(handle);
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(handle);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace aspis::data
