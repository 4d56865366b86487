#pragma once
// A folder of its own for a test that writes files, removed at the end.

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>

namespace aspis::test {

class Scratch {
 public:
  Scratch() {
    std::random_device device;
    folder_ = std::filesystem::temp_directory_path() /
              ("aspis_test_" + std::to_string(device()) + std::to_string(device()));
    std::filesystem::create_directories(folder_);
  }
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::filesystem::path folder() const { return folder_; }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  // Writes a file (making its folders) and gives its path.
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path file = folder_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file.string();
  }
  static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream bytes;
    bytes << in.rdbuf();
    return bytes.str();
  }

 private:
  std::filesystem::path folder_;
};

}  // namespace aspis::test
