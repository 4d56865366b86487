#include "checkpoint/safetensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "checkpoint/safetensors_header.h"
#include "core/error.h"

namespace aspis::checkpoint {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "the data of the format is little-endian");

struct SafetensorsFile::Mapping {
  void* address = nullptr;
  size_t bytes = 0;
  ~Mapping() {
    if (address) ::munmap(address, bytes);
  }
  char* data() const { return static_cast<char*>(address); }
};

namespace {

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw DataError(file.string() + ": " + what + ": " + std::strerror(errno));
}

// Closes on the way out; the mapping lives on.
struct Descriptor {
  int value;
  ~Descriptor() { ::close(value); }
};

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& file)
    : path_(file), mapping_(std::make_shared<Mapping>()) {
  // Not blocking: opening a pipe would wait for a writer.
  const int opened = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (opened < 0) fail(file, "cannot be opened");
  const Descriptor descriptor{opened};
  struct stat facts {};
  if (::fstat(opened, &facts) != 0) fail(file, "cannot be examined");
  if (!S_ISREG(facts.st_mode)) throw DataError(file.string() + ": not a regular file");
  const auto bytes = static_cast<uint64_t>(facts.st_size);
  if (bytes < 8) {
    throw DataError(file.string() + ": " + std::to_string(bytes) +
                    " bytes long, but a safetensors file has at least 8");
  }
  // Private and writable: a tensor over the file may be written to without reaching the file.
  void* address =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, opened, 0);
  if (address == MAP_FAILED) fail(file, "cannot be mapped into memory");
  mapping_->address = address;
  mapping_->bytes = bytes;

  uint64_t length = 0;
  std::memcpy(&length, address, 8);
  if (length > kMaxHeader || length > bytes - 8) {
    throw DataError(
        file.string() + ": the header would be " + std::to_string(length) + " bytes long, but " +
            (length > kMaxHeader ? "at most " + std::to_string(kMaxHeader) + " are allowed"
                                 : "the file has " + std::to_string(bytes) + " in all"),
        "this is not a safetensors file, or it is cut short");
  }
  data_begin_ = 8 + length;
  auto header =
      parse_safetensors_header({mapping_->data() + 8, length}, bytes - data_begin_, file.string());
  entries_ = std::move(header.entries);
  metadata_ = std::move(header.metadata);
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw DataError(path_.string() + ": there is no tensor \"" + name + "\"");
  }
  const Entry& entry = found->second;
  const auto options = at::TensorOptions().dtype(entry.dtype);
  if (entry.begin == entry.end) return at::empty(entry.shape, options);
  char* begin = mapping_->data() + data_begin_ + entry.begin;
  const size_t bytes = entry.end - entry.begin;
  if (entry.dtype == at::kBool &&
      std::any_of(begin, begin + bytes, [](char c) { return c != 0 && c != 1; })) {
    throw DataError(path_.string() + ": tensor \"" + name + "\": a BOOL is neither 0 nor 1");
  }
  if (reinterpret_cast<uintptr_t>(begin) % c10::elementSize(entry.dtype) != 0) {
    at::Tensor copy = at::empty(entry.shape, options);
    std::memcpy(copy.mutable_data_ptr(), begin, bytes);
    return copy;
  }
  return at::from_blob(
      begin, entry.shape, [keep = mapping_](void*) {}, options);
}

NamedTensors SafetensorsFile::tensors() const {
  NamedTensors out;
  for (const auto& [name, entry] : entries_) out[name] = tensor(name);
  return out;
}

}  // namespace aspis::checkpoint
