#pragma once
// Token shards on disk: Megatron's indexed dataset, PREFIX.bin and PREFIX.idx, both little-endian.
//
// PREFIX.bin: the token ids of all sequences back to back. PREFIX.idx: "MMIDIDX" and two zero
// bytes, uint64 version 1, uint8 dtype code, uint64 S sequences, uint64 D entries of the document
// index, int32 lengths [S] in tokens, int64 byte offsets [S] into .bin, int64 document index [D]:
// 0, then the number of sequences up to the end of each document. Nothing is aligned. A document is
// any number of sequences, none too; documents() = D - 1.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace aspis::data {

// How one id is stored. The values are the codes of the format, whose 6 (float64) and 7 (float32)
// hold no ids.
enum class TokenType : uint8_t {
  kUint8 = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kUint16 = 8
};
int64_t token_bytes(TokenType type);
const char* token_type_name(TokenType type);
// Megatron's choice: uint16 below 65500 entries, otherwise int32.
TokenType token_type_for_vocabulary(int64_t vocab_size);

// PREFIX.bin and PREFIX.idx.
std::filesystem::path bin_file(const std::string& prefix);
std::filesystem::path idx_file(const std::string& prefix);

// Reads both files through mmap; copies share the mapping. The files must not change meanwhile.
class IndexedDataset {
 public:
  // Checks the whole index against itself and against the length of .bin. Throws DataError naming
  // file, place, what was found and what is allowed.
  explicit IndexedDataset(const std::string& prefix);

  const std::string& prefix() const;
  TokenType type() const;
  int64_t tokens() const;  // of all sequences
  int64_t sequences() const;
  int64_t documents() const;

  int64_t length(int64_t sequence) const;  // in tokens
  // Sequences [first_sequence(document), first_sequence(document + 1)); document may be
  // documents().
  int64_t first_sequence(int64_t document) const;

  // ids[i] = token `offset + i` of the sequence. The range must lie inside the sequence.
  void read(int64_t sequence, int64_t offset, std::span<int64_t> ids) const;
  std::vector<int64_t> read(int64_t sequence) const;

  // Throws DataError naming the first id outside 0 .. vocab_size - 1, its sequence and place.
  // Reads all of .bin once, with all threads.
  void check_vocabulary(int64_t vocab_size) const;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

// Writes both files under temporary names and puts them in place with finish(). Without finish()
// nothing is left behind. Bytes are those of Megatron's own writer.
//
//   IndexedWriter writer(prefix, TokenType::kUint16);
//   writer.add_sequence(ids);  writer.end_document();
//   writer.finish();
class IndexedWriter {
 public:
  // Existing files are replaced by finish(). Throws DataError when the files cannot be made.
  IndexedWriter(const std::string& prefix, TokenType type);
  ~IndexedWriter();
  IndexedWriter(const IndexedWriter&) = delete;
  IndexedWriter& operator=(const IndexedWriter&) = delete;

  // Throws DataError for an id that the type cannot hold, or 2^31 tokens and more.
  void add_sequence(std::span<const int64_t> ids);
  // Sequences since the last call form a document, possibly an empty one.
  void end_document();
  // Ends an open document, writes the index and renames both files. Nothing may be added
  // afterwards.
  void finish();

  int64_t tokens() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace aspis::data
