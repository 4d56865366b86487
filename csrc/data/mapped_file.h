#pragma once
// A file's bytes in memory, read only.

#include <cstddef>
#include <filesystem>

namespace aspis::data {

class MappedFile {
 public:
  // Throws DataError with the system's reason. An empty file has no bytes and data() == nullptr.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace aspis::data
