#pragma once
// Files and folders that are there complete, on disk, or not at all.

#include <cstddef>
#include <filesystem>
#include <string>

namespace aspis::checkpoint {

// A file under construction, beside its final place. Destroyed without commit(), it vanishes.
// All errors are DataError with the system's reason.
class DurableFile {
 public:
  explicit DurableFile(const std::filesystem::path& file);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;

  void write(const void* bytes, size_t count);
  // Flushes to disk, gives the file its name and flushes the folder.
  void commit();

 private:
  [[noreturn]] void fail(const std::string& what) const;

  std::filesystem::path file_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

void write_text_durably(const std::filesystem::path& file, const std::string& text);

// Flushes the entries of a folder, so that a rename in it survives a power cut.
void sync_folder(const std::filesystem::path& folder);

}  // namespace aspis::checkpoint
