#pragma once
// safetensors files: 8 bytes little-endian header length, JSON header, dense little-endian data.
// Source of the format: the safetensors package, as described in docs/checkpoints.md.
//
// The reader trusts nothing: every length, offset, shape and name is checked before a byte of data
// is looked at, and everything wrong is a DataError that names file and tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace aspis::checkpoint {

using NamedTensors = std::map<std::string, at::Tensor>;
using Metadata = std::map<std::string, std::string>;

class SafetensorsFile {
 public:
  // What the header says of a tensor; begin and end are bytes from the start of the data.
  struct Entry {
    at::ScalarType dtype;
    std::vector<int64_t> shape;
    uint64_t begin;
    uint64_t end;
  };

  // Maps the file and checks all of it but the values. Throws DataError.
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const Metadata& metadata() const { return metadata_; }

  // A CPU tensor over the mapped file (copied when the file is not aligned for its dtype). It keeps
  // the mapping alive; pages are private, so that writing to it never reaches the file. Throws
  // DataError on a name that is not in the file.
  at::Tensor tensor(const std::string& name) const;

  // All of them.
  NamedTensors tensors() const;

 private:
  struct Mapping;
  std::filesystem::path path_;
  std::shared_ptr<Mapping> mapping_;
  size_t data_begin_ = 0;
  std::map<std::string, Entry> entries_;
  Metadata metadata_;
};

// Writes the tensors (any device, any strides) sorted by alignment, then name. The file appears
// under its name complete or not at all: temporary file beside it, fsync, rename, fsync of the
// folder. Throws DataError when it cannot be written and on dtypes the format has no name for.
// Tensors that share storage are written each on its own.
void write_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                       const Metadata& metadata = {});

// "BF16" and the like; throws DataError (naming `what`) on a dtype without one.
std::string safetensors_dtype(at::ScalarType dtype, const std::string& what);

}  // namespace aspis::checkpoint
