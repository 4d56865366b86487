#pragma once
// The JSON header of a safetensors file: text in, checked entries out. No file is touched here.

#include <cstdint>
#include <string>
#include <string_view>

#include "checkpoint/safetensors.h"

namespace aspis::checkpoint {

constexpr uint64_t kMaxHeader = 100'000'000;  // bytes; the format's own limit
constexpr size_t kMaxRank = 64;               // Torch has no tensors of more dimensions
constexpr size_t kMaxName = 4096;             // bytes

struct SafetensorsHeader {
  std::map<std::string, SafetensorsFile::Entry> entries;
  Metadata metadata;
};

// Parses the header of a file with `data_bytes` of data. Refused with DataError that begins with
// `file`: anything but one JSON object in UTF-8 (spaces around it allowed), keys given twice,
// unknown keys and dtypes, wrong types, sizes that overflow or differ from shape x dtype, data that
// overlaps, has holes or does not end with the file.
SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_bytes,
                                           const std::string& file);

// Place of a dtype in the order in which the data is sorted (largest alignment last); throws
// DataError naming `what` on a dtype that the format has no name for.
size_t safetensors_rank(at::ScalarType dtype, const std::string& what);

}  // namespace aspis::checkpoint
