#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"

namespace aspis::checkpoint {

namespace {

using Json = nlohmann::json;

struct DtypeName {
  const char* name;
  std::optional<at::ScalarType> dtype;  // none: packs several values into a byte
};

// In the format's order of alignment.
constexpr std::array kDtypes = {
    DtypeName{"BOOL", at::kBool},
    DtypeName{"F4", std::nullopt},
    DtypeName{"F6_E2M3", std::nullopt},
    DtypeName{"F6_E3M2", std::nullopt},
    DtypeName{"U8", at::kByte},
    DtypeName{"I8", at::kChar},
    DtypeName{"F8_E5M2", at::kFloat8_e5m2},
    DtypeName{"F8_E4M3", at::kFloat8_e4m3fn},
    DtypeName{"F8_E8M0", at::kFloat8_e8m0fnu},
    DtypeName{"F8_E4M3FNUZ", at::kFloat8_e4m3fnuz},
    DtypeName{"F8_E5M2FNUZ", at::kFloat8_e5m2fnuz},
    DtypeName{"I16", at::kShort},
    DtypeName{"U16", at::kUInt16},
    DtypeName{"F16", at::kHalf},
    DtypeName{"BF16", at::kBFloat16},
    DtypeName{"I32", at::kInt},
    DtypeName{"U32", at::kUInt32},
    DtypeName{"F32", at::kFloat},
    DtypeName{"C64", at::kComplexFloat},
    DtypeName{"F64", at::kDouble},
    DtypeName{"I64", at::kLong},
    DtypeName{"U64", at::kUInt64},
};

std::string known_dtypes() {
  std::string out;
  for (const DtypeName& d : kDtypes) {
    if (d.dtype) out += (out.empty() ? "" : ", ") + std::string(d.name);
  }
  return out;
}

// A name from a file, fit for a message.
std::string in_quotes(const std::string& name) {
  constexpr size_t kShown = 120;
  std::string text = name.substr(0, kShown) + (name.size() > kShown ? "..." : "");
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = '?';
  }
  return "\"" + text + "\"";
}

// What nlohmann's parser calls. The header has a fixed shape, so that a place is one of these:
//   {"__metadata__": {"key": "value"},
//    "name": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  SafetensorsHeader header;

  bool null() override { refuse("null"); }
  bool boolean(bool value) override { refuse(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { refuse(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { refuse(text); }
  bool binary(binary_t&) override { refuse("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) refuse(std::to_string(value));
    if (place_ == Place::kShape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail(where() + ": the dimension " + std::to_string(value) + " is too large");
      }
      if (shape_.size() == kMaxRank) {
        fail(where() + ": more than " + std::to_string(kMaxRank) + " dimensions");
      }
      shape_.push_back(static_cast<int64_t>(value));
    } else {
      if (offsets_.size() == 2) fail(where() + ": data_offsets must be two numbers, got more");
      offsets_.push_back(value);
    }
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header.metadata[key_] = value;
    } else if (place_ == Place::kEntry && key_ == "dtype") {
      dtype_ = value;
    } else {
      refuse(in_quotes(value));
    }
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kRoot;
    } else if (place_ == Place::kRoot && name_ == "__metadata__") {
      place_ = Place::kMetadata;
      keys_.clear();
    } else if (place_ == Place::kRoot) {
      place_ = Place::kEntry;
      keys_.clear();
      dtype_.reset();
      shape_.clear();
      offsets_.clear();
    } else {
      refuse("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kRoot) {
      if (value.size() > kMaxName) {
        fail("the tensor name " + in_quotes(value) + " is longer than " + std::to_string(kMaxName) +
             " bytes");
      }
      if (!names_.insert(value).second) fail(in_quotes(value) + " stands twice in the header");
      name_ = value;
      return true;
    }
    if (!keys_.insert(value).second) fail(where() + ": " + in_quotes(value) + " stands twice");
    if (place_ == Place::kEntry && value != "dtype" && value != "shape" &&
        value != "data_offsets") {
      fail(where() + ": unknown key " + in_quotes(value) +
           "; allowed are dtype, shape and data_offsets");
    }
    key_ = value;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry) {
      finish_entry();
      place_ = Place::kRoot;
    } else if (place_ == Place::kMetadata) {
      place_ = Place::kRoot;
    } else {
      place_ = Place::kEnd;
    }
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kEntry || key_ == "dtype") refuse("an array");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(size_t byte, const std::string&, const Json::exception& error) override {
    std::string reason = error.what();
    if (const auto at = reason.find("syntax error"); at != std::string::npos) {
      reason = reason.substr(at);
    }
    fail("the header is not valid JSON at byte " + std::to_string(byte) + ": " +
         reason.substr(0, 200));
  }

 private:
  enum class Place { kStart, kRoot, kMetadata, kEntry, kShape, kOffsets, kEnd };

  [[noreturn]] void fail(const std::string& what) const { throw DataError(file_ + ": " + what); }

  std::string where() const {
    return name_ == "__metadata__" ? name_ : "tensor " + in_quotes(name_);
  }

  // A value of a type that has no business here.
  [[noreturn]] void refuse(const std::string& found) const {
    switch (place_) {
      case Place::kStart:
        fail("the header must be a JSON object, got " + found);
      case Place::kMetadata:
        fail("__metadata__: " + in_quotes(key_) + " must be a string, got " + found);
      case Place::kShape:
        fail(where() + ": shape must hold whole numbers from 0, got " + found);
      case Place::kOffsets:
        fail(where() + ": data_offsets must hold whole numbers from 0, got " + found);
      case Place::kEntry:
        fail(where() + ": " + key_ + " must be " +
             (key_ == "dtype" ? "a string" : "an array of numbers") + ", got " + found);
      default:
        fail(where() + " must be an object, got " + found);
    }
  }

  at::ScalarType dtype() const {
    const auto found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                    [&](const DtypeName& d) { return *dtype_ == d.name; });
    if (found == kDtypes.end()) {
      fail(where() + ": unknown dtype " + in_quotes(*dtype_) + "; known are " + known_dtypes());
    }
    if (!found->dtype) {
      fail(where() + ": dtype " + *dtype_ + " packs several values into a byte and is not read");
    }
    return *found->dtype;
  }

  void finish_entry() {
    for (const char* wanted : {"dtype", "shape", "data_offsets"}) {
      if (!keys_.contains(wanted)) fail(where() + " has no " + wanted);
    }
    if (offsets_.size() != 2) {
      fail(where() + ": data_offsets must be two numbers, got " + std::to_string(offsets_.size()));
    }
    SafetensorsFile::Entry entry{dtype(), shape_, offsets_[0], offsets_[1]};
    // Dimensions of size 0 count as 1 here: strides multiply the others whatever the total is.
    int64_t bytes = static_cast<int64_t>(c10::elementSize(entry.dtype));
    bool empty = false;
    for (const int64_t size : shape_) {
      empty |= size == 0;
      if (__builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes)) {
        fail(where() + ": the shape is too large for any file");
      }
    }
    const uint64_t wanted = empty ? 0 : static_cast<uint64_t>(bytes);
    if (entry.end < entry.begin || entry.end - entry.begin != wanted) {
      fail(where() + ": shape and dtype " + *dtype_ + " make " + std::to_string(wanted) +
           " bytes, but data_offsets are [" + std::to_string(entry.begin) + ", " +
           std::to_string(entry.end) + "]");
    }
    header.entries.emplace(name_, std::move(entry));
  }

  std::string file_;
  Place place_ = Place::kStart;
  std::string name_;             // of the tensor being read
  std::string key_;              // inside the tensor's object or the metadata
  std::set<std::string> names_;  // of the root object
  std::set<std::string> keys_;   // of the object being read
  std::optional<std::string> dtype_;
  std::vector<int64_t> shape_;
  std::vector<uint64_t> offsets_;
};

// Every byte of the data belongs to exactly one tensor.
void check_layout(const SafetensorsHeader& header, uint64_t data_bytes, const std::string& file) {
  using Item = std::pair<const std::string, SafetensorsFile::Entry>;
  std::vector<const Item*> order;
  for (const Item& item : header.entries) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t at = 0;
  for (const Item* item : order) {
    if (item->second.begin != at) {
      throw DataError(file + ": tensor " + in_quotes(item->first) + " begins at byte " +
                      std::to_string(item->second.begin) + " of the data, but the one before " +
                      (item->second.begin > at ? "ends" : "reaches") + " at byte " +
                      std::to_string(at) +
                      (item->second.begin > at ? " (a hole)" : " (they overlap)"));
    }
    at = item->second.end;
  }
  if (at != data_bytes) {
    throw DataError(file + ": the tensors fill " + std::to_string(at) +
                        " bytes, but the file has " + std::to_string(data_bytes) + " bytes of data",
                    at > data_bytes ? "the file is cut short: copy or download it again" : "");
  }
}

const DtypeName& entry_of(at::ScalarType dtype, const std::string& what) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const DtypeName& d) { return d.dtype == dtype; });
  if (found == kDtypes.end()) {
    throw DataError(what + ": safetensors files have no dtype for " + c10::toString(dtype) +
                    "; they have " + known_dtypes());
  }
  return *found;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_bytes,
                                           const std::string& file) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] != '{') {
    throw DataError(file + ": the header does not begin with '{'",
                    "this is not a safetensors file, or it is damaged");
  }
  // The JSON parser takes a zero byte for the end and would not see what follows.
  if (text.find('\0') != std::string_view::npos) {
    throw DataError(file + ": the header holds a zero byte");
  }
  HeaderReader reader(file);
  Json::sax_parse(text, &reader);
  check_layout(reader.header, data_bytes, file);
  return std::move(reader.header);
}

size_t safetensors_rank(at::ScalarType dtype, const std::string& what) {
  return static_cast<size_t>(&entry_of(dtype, what) - kDtypes.data());
}

std::string safetensors_dtype(at::ScalarType dtype, const std::string& what) {
  return entry_of(dtype, what).name;
}

}  // namespace aspis::checkpoint
