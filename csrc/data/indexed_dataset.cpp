#include "data/indexed_dataset.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <type_traits>

#include "core/error.h"
#include "data/mapped_file.h"

namespace aspis::data {

static_assert(std::endian::native == std::endian::little, "shards are little-endian");

namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr size_t kHeaderBytes = 34;

// The arrays of .idx lie at any address.
template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Calls f with a value of the type's C++ type.
template <typename F>
auto with_type(TokenType type, F&& f) {
  switch (type) {
    case TokenType::kUint8:
      return f(uint8_t{});
    case TokenType::kInt8:
      return f(int8_t{});
    case TokenType::kInt16:
      return f(int16_t{});
    case TokenType::kInt32:
      return f(int32_t{});
    case TokenType::kInt64:
      return f(int64_t{});
    case TokenType::kUint16:
      break;
  }
  return f(uint16_t{});
}

std::string text(uint64_t value) {
  return std::to_string(value);
}

}  // namespace

int64_t token_bytes(TokenType type) {
  return with_type(type, [](auto zero) { return static_cast<int64_t>(sizeof(zero)); });
}

const char* token_type_name(TokenType type) {
  switch (type) {
    case TokenType::kUint8:
      return "uint8";
    case TokenType::kInt8:
      return "int8";
    case TokenType::kInt16:
      return "int16";
    case TokenType::kInt32:
      return "int32";
    case TokenType::kInt64:
      return "int64";
    case TokenType::kUint16:
      break;
  }
  return "uint16";
}

TokenType token_type_for_vocabulary(int64_t vocab_size) {
  return vocab_size < 65500 ? TokenType::kUint16 : TokenType::kInt32;
}

std::filesystem::path bin_file(const std::string& prefix) {
  return prefix + ".bin";
}

std::filesystem::path idx_file(const std::string& prefix) {
  return prefix + ".idx";
}

struct IndexedDataset::Parts {
  explicit Parts(const std::string& name)
      : prefix(name), idx(require(idx_file(name))), bin(require(bin_file(name))) {
    check_header();
    check_sequences();
    check_documents();
  }

  std::string prefix;
  MappedFile idx;
  MappedFile bin;
  TokenType type = TokenType::kUint16;
  int64_t itemsize = 2;
  int64_t sequences = 0;
  int64_t entries = 0;  // of the document index
  int64_t tokens = 0;
  const std::byte* lengths = nullptr;
  const std::byte* offsets = nullptr;
  const std::byte* document_index = nullptr;

  int64_t length(int64_t i) const { return load<int32_t>(lengths + 4 * i); }
  int64_t offset(int64_t i) const { return load<int64_t>(offsets + 8 * i); }
  int64_t document_entry(int64_t i) const { return load<int64_t>(document_index + 8 * i); }

 private:
  static std::filesystem::path require(const std::filesystem::path& file) {
    std::error_code error;
    if (!std::filesystem::exists(file, error)) {
      throw DataError(file.string() + ": no such file",
                      "a shard is a pair PREFIX.bin and PREFIX.idx, named by its PREFIX; `aspis "
                      "prepare` writes one from text files");
    }
    return file;
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw DataError(idx_file(prefix).string() + ": " + message,
                    "the file is damaged, unfinished or belongs to another .bin");
  }

  void check_header() {
    if (idx.size() < kHeaderBytes) {
      fail("has " + text(idx.size()) + " bytes, an index has at least 34");
    }
    const std::byte* at = idx.data();
    if (std::memcmp(at, kMagic, sizeof(kMagic)) != 0) {
      fail("does not begin with MMIDIDX and two zero bytes: no index of a token shard");
    }
    const auto version = load<uint64_t>(at + 9);
    if (version != 1) fail("version " + text(version) + ", only version 1 is known");
    const auto code = load<uint8_t>(at + 17);
    if (code == 6 || code == 7) {
      fail("dtype code " + text(code) + " (floating point) holds no token ids");
    }
    if (code < 1 || code > 8) {
      fail("dtype code " + text(code) +
           " is unknown (1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16)");
    }
    type = static_cast<TokenType>(code);
    itemsize = token_bytes(type);
    check_size(load<uint64_t>(at + 18), load<uint64_t>(at + 26));
  }

  void check_size(uint64_t s, uint64_t d) {
    // Bounds first: the sums below must not overflow.
    const uint64_t rest = idx.size() - kHeaderBytes;
    const std::string counts =
        text(s) + " sequences and " + text(d) + " entries of the document index";
    if (d < 1) fail("the document index is empty, it has at least one entry");
    if (s > rest / 12 || d > rest / 8 || 12 * s + 8 * d > rest) {
      fail("has " + text(idx.size()) + " bytes, too few for " + counts);
    }
    const uint64_t wanted = 12 * s + 8 * d;
    if (rest == wanted + s && s > 0) {
      fail("has one mode per sequence: multimodal sets cannot be read");
    }
    if (rest != wanted) {
      fail("has " + text(idx.size()) + " bytes, " + counts + " take " +
           text(wanted + kHeaderBytes));
    }
    sequences = static_cast<int64_t>(s);
    entries = static_cast<int64_t>(d);
    lengths = idx.data() + kHeaderBytes;
    offsets = lengths + 4 * s;
    document_index = offsets + 8 * s;
  }

  void check_sequences() {
    const auto bin_size = static_cast<int64_t>(bin.size());
    int64_t end = 0;
    for (int64_t i = 0; i < sequences; ++i) {
      const int64_t n = length(i), at = offset(i);
      const std::string name = "sequence " + std::to_string(i);
      if (n < 0) fail(name + " has length " + std::to_string(n));
      // n * itemsize stays below 2^34; at is checked before it is added.
      if (at < 0 || at > bin_size || n * itemsize > bin_size - at) {
        fail(name + " (offset " + std::to_string(at) + ", " + std::to_string(n) + " tokens of " +
             std::to_string(itemsize) + " bytes) leaves " + bin_file(prefix).string() + " with " +
             std::to_string(bin_size) + " bytes");
      }
      end = std::max(end, at + n * itemsize);
      tokens += n;
    }
    if (end != bin_size) {
      fail("describes " + std::to_string(end) + " bytes of " + bin_file(prefix).string() +
           ", which has " + std::to_string(bin_size));
    }
  }

  void check_documents() {
    int64_t last = 0;
    for (int64_t i = 0; i < entries; ++i) {
      const int64_t entry = document_entry(i);
      const std::string name =
          "entry " + std::to_string(i) + " of the document index is " + std::to_string(entry);
      if (i == 0 && entry != 0) fail(name + ", the first one must be 0");
      if (entry < last) fail(name + ", less than the one before (" + std::to_string(last) + ")");
      if (entry > sequences) {
        fail(name + ", more than the " + std::to_string(sequences) + " sequences");
      }
      last = entry;
    }
    if (last != sequences) {
      fail("the document index ends with " + std::to_string(last) + ", it must end with the " +
           std::to_string(sequences) + " sequences");
    }
  }
};

IndexedDataset::IndexedDataset(const std::string& prefix)
    : parts_(std::make_shared<const Parts>(prefix)) {}

const std::string& IndexedDataset::prefix() const {
  return parts_->prefix;
}
TokenType IndexedDataset::type() const {
  return parts_->type;
}
int64_t IndexedDataset::tokens() const {
  return parts_->tokens;
}
int64_t IndexedDataset::sequences() const {
  return parts_->sequences;
}
int64_t IndexedDataset::documents() const {
  return parts_->entries - 1;
}

int64_t IndexedDataset::length(int64_t sequence) const {
  return parts_->length(sequence);
}
int64_t IndexedDataset::first_sequence(int64_t document) const {
  return parts_->document_entry(document);
}

void IndexedDataset::read(int64_t sequence, int64_t offset, std::span<int64_t> ids) const {
  const Parts& p = *parts_;
  const auto count = static_cast<int64_t>(ids.size());
  if (sequence < 0 || sequence >= p.sequences || offset < 0 || count > p.length(sequence) ||
      offset > p.length(sequence) - count) {
    throw std::out_of_range("IndexedDataset::read: tokens " + std::to_string(offset) + " .. " +
                            std::to_string(offset + count) + " of sequence " +
                            std::to_string(sequence));
  }
  const std::byte* at = p.bin.data() + p.offset(sequence) + offset * p.itemsize;
  with_type(p.type, [&](auto zero) {
    for (int64_t i = 0; i < count; ++i) {
      ids[i] = static_cast<int64_t>(load<decltype(zero)>(at + i * sizeof(zero)));
    }
  });
}

std::vector<int64_t> IndexedDataset::read(int64_t sequence) const {
  std::vector<int64_t> ids(static_cast<size_t>(length(sequence)));
  read(sequence, 0, ids);
  return ids;
}

void IndexedDataset::check_vocabulary(int64_t vocab_size) const {
  const Parts& p = *parts_;
  // Largest value of a block without a branch; negative ids are large as unsigned ones. The place
  // of a bad id is looked for only once there is one.
  std::mutex mutex;
  bool bad = false;
  with_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    using U = std::make_unsigned_t<T>;
    // A type whose every value is an id of the vocabulary needs no look.
    const auto top = static_cast<uint64_t>(std::numeric_limits<T>::max());
    if (std::is_unsigned_v<T> && static_cast<uint64_t>(vocab_size) > top) return;
    const auto limit = static_cast<U>(std::min<uint64_t>(vocab_size, top + 1));
    const auto count = static_cast<int64_t>(p.bin.size() / sizeof(T));
    at::parallel_for(0, count, int64_t{1} << 20, [&](int64_t begin, int64_t end) {
      const std::byte* at = p.bin.data();
      U largest = 0;
      for (int64_t i = begin; i < end; ++i) {
        largest = std::max(largest, load<U>(at + i * sizeof(T)));
      }
      if (largest >= limit) {
        std::lock_guard<std::mutex> lock(mutex);
        bad = true;
      }
    });
  });
  if (!bad) return;
  for (int64_t sequence = 0; sequence < sequences(); ++sequence) {
    const std::vector<int64_t> ids = read(sequence);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= 0 && ids[i] < vocab_size) continue;
      throw DataError(
          bin_file(prefix()).string() + ": token " + std::to_string(i) + " of sequence " +
              std::to_string(sequence) + " is " + std::to_string(ids[i]) +
              ", the vocabulary has ids 0 .. " + std::to_string(vocab_size - 1),
          "the shard was made with another tokenizer, or model.vocab_size is too small");
    }
  }
}

}  // namespace aspis::data
