#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "data/indexed_dataset.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

// A file under a temporary name beside its place, removed unless it is kept.
class TemporaryFile {
 public:
  explicit TemporaryFile(fs::path place)
      : place_(std::move(place)), path_(place_.string() + ".tmp" + std::to_string(::getpid())) {
    file_ = std::fopen(path_.c_str(), "wb");
    if (!file_) fail();
  }
  ~TemporaryFile() {
    if (file_) std::fclose(file_);
    std::error_code error;
    if (!kept_) fs::remove(path_, error);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const void* bytes, size_t count) {
    if (count > 0 && std::fwrite(bytes, 1, count, file_) != count) fail();
  }
  template <typename T>
  void write(const std::vector<T>& values) {
    write(values.data(), values.size() * sizeof(T));
  }
  void close() {
    const bool flushed = std::fflush(file_) == 0 && ::fsync(::fileno(file_)) == 0;
    if (!flushed) fail();
    std::fclose(file_);
    file_ = nullptr;
  }
  void keep() {
    std::error_code error;
    fs::rename(path_, place_, error);
    if (error) throw DataError(place_.string() + ": cannot be written: " + error.message());
    kept_ = true;
  }

 private:
  [[noreturn]] void fail() const {
    throw DataError(place_.string() + ": cannot be written: " + std::strerror(errno));
  }

  fs::path place_;
  fs::path path_;
  std::FILE* file_ = nullptr;
  bool kept_ = false;
};

// Smallest and largest id that the type holds.
std::pair<int64_t, int64_t> range_of(TokenType type) {
  const int64_t bits = 8 * token_bytes(type);
  const bool is_unsigned = type == TokenType::kUint8 || type == TokenType::kUint16;
  if (is_unsigned) return {0, (int64_t{1} << bits) - 1};
  const int64_t top = std::numeric_limits<int64_t>::max() >> (64 - bits);
  return {-top - 1, top};
}

}  // namespace

struct IndexedWriter::Parts {
  Parts(const std::string& prefix, TokenType token_type)
      : type(token_type), bin(bin_file(prefix)), idx(idx_file(prefix)), place(bin_file(prefix)) {}

  TokenType type;
  TemporaryFile bin;
  TemporaryFile idx;
  fs::path place;
  std::vector<int32_t> lengths;
  std::vector<int64_t> offsets;
  std::vector<int64_t> document_index = {0};
  std::vector<char> buffer;
  int64_t tokens = 0;
};

IndexedWriter::IndexedWriter(const std::string& prefix, TokenType type)
    : parts_(std::make_unique<Parts>(prefix, type)) {}
IndexedWriter::~IndexedWriter() = default;

void IndexedWriter::add_sequence(std::span<const int64_t> ids) {
  Parts& p = *parts_;
  const std::string name = p.place.string() + ": sequence " + std::to_string(p.lengths.size());
  if (ids.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw DataError(name + " has " + std::to_string(ids.size()) +
                    " tokens, the format holds at most 2147483647");
  }
  const auto [low, high] = range_of(p.type);
  const auto itemsize = static_cast<size_t>(token_bytes(p.type));
  p.buffer.resize(ids.size() * itemsize);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < low || ids[i] > high) {
      throw DataError(name + ": id " + std::to_string(ids[i]) + " does not fit into " +
                      token_type_name(p.type));
    }
    // The low bytes of a little-endian integer are the integer in the smaller type.
    std::memcpy(p.buffer.data() + i * itemsize, &ids[i], itemsize);
  }
  p.bin.write(p.buffer);
  p.offsets.push_back(p.tokens * static_cast<int64_t>(itemsize));
  p.lengths.push_back(static_cast<int32_t>(ids.size()));
  p.tokens += static_cast<int64_t>(ids.size());
}

void IndexedWriter::end_document() {
  parts_->document_index.push_back(static_cast<int64_t>(parts_->lengths.size()));
}

void IndexedWriter::finish() {
  Parts& p = *parts_;
  if (p.document_index.back() != static_cast<int64_t>(p.lengths.size())) end_document();
  const auto put = [&](auto value) { p.idx.write(&value, sizeof(value)); };
  p.idx.write("MMIDIDX\0", 9);
  put(uint64_t{1});
  put(static_cast<uint8_t>(p.type));
  put(static_cast<uint64_t>(p.lengths.size()));
  put(static_cast<uint64_t>(p.document_index.size()));
  p.idx.write(p.lengths);
  p.idx.write(p.offsets);
  p.idx.write(p.document_index);
  p.bin.close();
  p.idx.close();
  p.bin.keep();
  p.idx.keep();
}

int64_t IndexedWriter::tokens() const {
  return parts_->tokens;
}

}  // namespace aspis::data
