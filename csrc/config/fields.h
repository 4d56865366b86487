#pragma once
// One list of fields per config struct serves reading, writing and documentation:
//
//   struct OptimConfig { double lr = 3e-4; bool fused = true; };
//   void fields(config::Fields& f, OptimConfig& c) {
//     f.number("lr", c.lr, "Peak learning rate.", {.min = 0.0});
//     f.boolean("fused", c.fused, "One call for all parameters.");
//   }
//
// Reading keeps the struct's defaults for absent keys and refuses unknown keys, wrong types, 1.9
// for an integer and values out of range, with file, path, what was read and what is allowed:
//   runs/a.json: optim.weight_decya: unknown key (did you mean weight_decay?)
// Writing gives every field, so that a written config states all that a run used.

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/json.h"

namespace aspis::config {

struct IntegerRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct NumberRange {  // inclusive
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

// A row of the documentation table.
struct FieldInfo {
  std::string path;           // "optim.lr"
  std::string type;           // "number >= 0"
  std::string default_value;  // as JSON
  std::string doc;
};

class Fields;

// Reads `json` over the defaults in `value`. `file` and `path` open every message.
template <typename T>
void read(const Json& json, const std::string& file, T& value, const std::string& path = "");

// Every field. Include nlohmann/json.hpp where the result is used.
template <typename T>
void write(const T& value, Json& out);

// One row per field, with the struct's defaults.
template <typename T>
std::vector<FieldInfo> describe(const std::string& path = "");

class Fields {
 public:
  struct State;  // private to fields.cpp
  ~Fields();
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  void boolean(const char* key, bool& value, const char* doc);
  void integer(const char* key, int64_t& value, const char* doc, IntegerRange range = {});
  void number(const char* key, double& value, const char* doc, NumberRange range = {});
  void text(const char* key, std::string& value, const char* doc);
  void choice(const char* key, std::string& value, const std::vector<std::string>& allowed,
              const char* doc);
  // null or absent means none.
  void optional_integer(const char* key, std::optional<int64_t>& value, const char* doc,
                        IntegerRange range = {});
  void optional_number(const char* key, std::optional<double>& value, const char* doc,
                       NumberRange range = {});
  void numbers(const char* key, std::vector<double>& value, const char* doc,
               NumberRange range = {});
  void texts(const char* key, std::vector<std::string>& value, const char* doc);
  // Any JSON; the owner interprets it (and reports through `fail`).
  void raw(const char* key, Json& value, const char* doc);

  // A nested struct with a `fields` function of its own.
  template <typename T>
  void object(const char* key, T& value, const char* doc) {
    if (!enter(key, doc)) return;
    fields(*this, value);
    leave();
  }
  // An array of such structs. Reading replaces what was there.
  template <typename T>
  void list(const char* key, std::vector<T>& value, const char* doc) {
    const std::optional<size_t> count = enter_list(key, value.size(), doc);
    if (!count) return;
    value.resize(*count);
    for (size_t i = 0; i < *count; ++i) {
      enter_item(i);
      fields(*this, value[i]);
      leave();
    }
    describe_item<T>();
    leave();
  }

  // The key must be given when reading. Call it before the field itself.
  void require(const char* key);
  // Whether the object being read has the key (false when writing or describing).
  bool has(const char* key) const;
  bool reading() const;
  // What opens messages: the file's name and the path of the object the fields belong to ("" at the
  // top), for owners that read a `raw` value with a reader of their own.
  const std::string& file() const;
  const std::string& path() const;
  // Throws ConfigError "FILE: PATH.key: message".
  [[noreturn]] void fail(const std::string& key, const std::string& message) const;

 private:
  template <typename T>
  friend void read(const Json& json, const std::string& file, T& value, const std::string& path);
  template <typename T>
  friend void write(const T& value, Json& out);
  template <typename T>
  friend std::vector<FieldInfo> describe(const std::string& path);

  enum class Mode { kRead, kWrite, kDescribe };
  Fields(Mode mode, const Json* input, std::string file, std::string path);

  bool enter(const char* key, const char* doc);
  std::optional<size_t> enter_list(const char* key, size_t count, const char* doc);
  void enter_item(size_t index);
  void leave();
  bool begin_item_description();
  template <typename T>
  void describe_item() {
    if (!begin_item_description()) return;
    T item{};
    fields(*this, item);
    leave();
  }
  void finish();  // reading: refuses keys that no field asked for
  void take_output(Json& out);
  std::vector<FieldInfo> take_description();

  std::unique_ptr<State> state_;
};

template <typename T>
void read(const Json& json, const std::string& file, T& value, const std::string& path) {
  Fields f(Fields::Mode::kRead, &json, file, path);
  fields(f, value);
  f.finish();
}

template <typename T>
void write(const T& value, Json& out) {
  Fields f(Fields::Mode::kWrite, nullptr, "", "");
  T copy = value;
  fields(f, copy);
  f.take_output(out);
}

template <typename T>
std::vector<FieldInfo> describe(const std::string& path) {
  Fields f(Fields::Mode::kDescribe, nullptr, "", path);
  T value{};
  fields(f, value);
  return f.take_description();
}

}  // namespace aspis::config
