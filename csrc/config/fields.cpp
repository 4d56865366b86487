#include "config/fields.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"

namespace aspis::config {

// Where in the tree the fields stand. `known` collects the keys that fields asked for.
struct Frame {
  const Json* input = nullptr;  // reading
  Json* output = nullptr;       // writing
  std::string path;
  std::vector<std::string> known;
};

struct Fields::State {
  Mode mode;
  std::string file;
  Json root;
  std::vector<Frame> frames;
  std::vector<FieldInfo> rows;

  Frame& top() { return frames.back(); }
};

namespace {

std::string child_path(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::string shown(const Json& value) {
  std::string text = value.dump();
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string number_text(double value) {
  std::ostringstream out;
  out.precision(12);
  out << value;
  return out.str();
}

template <typename Range>
std::string range_text(const std::string& type, const Range& range) {
  using Value = decltype(range.min);
  const bool low = std::is_floating_point_v<Value> ? std::isfinite(static_cast<double>(range.min))
                                                   : range.min != Range{}.min;
  const bool high = std::is_floating_point_v<Value> ? std::isfinite(static_cast<double>(range.max))
                                                    : range.max != Range{}.max;
  std::string text = type;
  if (low) text += " >= " + number_text(static_cast<double>(range.min));
  if (high)
    text += std::string(low ? "," : "") + " <= " + number_text(static_cast<double>(range.max));
  return text;
}

}  // namespace

Fields::Fields(Mode mode, const Json* input, std::string file, std::string path)
    : state_(std::make_unique<State>()) {
  state_->mode = mode;
  state_->file = std::move(file);
  state_->root = Json::object();
  if (mode == Mode::kRead && !input->is_object()) {
    throw ConfigError(state_->file + ": " + (path.empty() ? "" : path + ": ") +
                      "expected an object, got " + shown(*input));
  }
  state_->frames.push_back(
      {input, mode == Mode::kWrite ? &state_->root : nullptr, std::move(path), {}});
}

Fields::~Fields() = default;

bool Fields::reading() const {
  return state_->mode == Mode::kRead;
}

const std::string& Fields::file() const {
  return state_->file;
}

const std::string& Fields::path() const {
  return state_->top().path;
}

bool Fields::has(const char* key) const {
  return reading() && state_->top().input->contains(key);
}

void Fields::fail(const std::string& key, const std::string& message) const {
  const std::string& path = state_->top().path;
  throw ConfigError(state_->file + ": " + (key.empty() ? path : child_path(path, key)) + ": " +
                    message);
}

void Fields::require(const char* key) {
  if (reading() && !has(key)) fail(key, "missing: this key has no default");
}

// Reads, writes or describes one plain value. `parse` turns JSON into the value or fails.
template <typename Parse>
static void plain(Fields& f, Fields::State& state, const char* key, const Json& current,
                  const std::string& type, const char* doc, Parse&& parse) {
  Frame& frame = state.frames.back();
  if (f.reading()) {
    frame.known.push_back(key);
    if (frame.input->contains(key)) parse((*frame.input)[key]);
  } else if (frame.output) {
    (*frame.output)[key] = current;
  } else {
    state.rows.push_back({child_path(frame.path, key), type, current.dump(), doc});
  }
}

void Fields::boolean(const char* key, bool& value, const char* doc) {
  plain(*this, *state_, key, value, "true or false", doc, [&](const Json& json) {
    if (!json.is_boolean()) fail(key, "expected true or false, got " + shown(json));
    value = json.get<bool>();
  });
}

static int64_t parse_integer(const Fields& f, const char* key, const Json& json,
                             const IntegerRange& range) {
  const std::string wanted = range_text("integer", range);
  if (!json.is_number()) f.fail(key, "expected an " + wanted + ", got " + shown(json));
  // 1e6 is welcome, 1.9 is not.
  const double number = json.get<double>();
  const bool whole =
      json.is_number_integer() || (std::floor(number) == number && std::abs(number) < 9e15);
  if (!whole) f.fail(key, "expected an " + wanted + ", got " + shown(json));
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    f.fail(key, "expected an " + wanted + ", got " + shown(json));
  }
  const int64_t value =
      json.is_number_integer() ? json.get<int64_t>() : static_cast<int64_t>(number);
  if (value < range.min || value > range.max) {
    f.fail(key, "expected an " + wanted + ", got " + shown(json));
  }
  return value;
}

static double parse_number(const Fields& f, const char* key, const Json& json,
                           const NumberRange& range) {
  const std::string wanted = range_text("number", range);
  if (!json.is_number()) f.fail(key, "expected a " + wanted + ", got " + shown(json));
  const double value = json.get<double>();
  if (!(value >= range.min && value <= range.max)) {
    f.fail(key, "expected a " + wanted + ", got " + shown(json));
  }
  return value;
}

void Fields::integer(const char* key, int64_t& value, const char* doc, IntegerRange range) {
  plain(*this, *state_, key, value, range_text("integer", range), doc,
        [&](const Json& json) { value = parse_integer(*this, key, json, range); });
}

void Fields::number(const char* key, double& value, const char* doc, NumberRange range) {
  plain(*this, *state_, key, value, range_text("number", range), doc,
        [&](const Json& json) { value = parse_number(*this, key, json, range); });
}

void Fields::optional_integer(const char* key, std::optional<int64_t>& value, const char* doc,
                              IntegerRange range) {
  plain(*this, *state_, key, value ? Json(*value) : Json(),
        range_text("integer", range) + " or null", doc, [&](const Json& json) {
          value.reset();
          if (!json.is_null()) value = parse_integer(*this, key, json, range);
        });
}

void Fields::optional_number(const char* key, std::optional<double>& value, const char* doc,
                             NumberRange range) {
  plain(*this, *state_, key, value ? Json(*value) : Json(),
        range_text("number", range) + " or null", doc, [&](const Json& json) {
          value.reset();
          if (!json.is_null()) value = parse_number(*this, key, json, range);
        });
}

void Fields::text(const char* key, std::string& value, const char* doc) {
  plain(*this, *state_, key, value, "string", doc, [&](const Json& json) {
    if (!json.is_string()) fail(key, "expected a string, got " + shown(json));
    value = json.get<std::string>();
  });
}

void Fields::choice(const char* key, std::string& value, const std::vector<std::string>& allowed,
                    const char* doc) {
  const std::string list = "\"" + joined(allowed, "\", \"") + "\"";
  plain(*this, *state_, key, value, list, doc, [&](const Json& json) {
    const bool known = json.is_string() && std::find(allowed.begin(), allowed.end(),
                                                     json.get<std::string>()) != allowed.end();
    if (!known) fail(key, "expected one of " + list + ", got " + shown(json));
    value = json.get<std::string>();
  });
}

void Fields::numbers(const char* key, std::vector<double>& value, const char* doc,
                     NumberRange range) {
  plain(*this, *state_, key, value, "array of " + range_text("number", range), doc,
        [&](const Json& json) {
          if (!json.is_array()) fail(key, "expected an array of numbers, got " + shown(json));
          value.clear();
          for (const Json& item : json) value.push_back(parse_number(*this, key, item, range));
        });
}

void Fields::texts(const char* key, std::vector<std::string>& value, const char* doc) {
  plain(*this, *state_, key, value, "array of strings", doc, [&](const Json& json) {
    if (!json.is_array()) fail(key, "expected an array of strings, got " + shown(json));
    value.clear();
    for (const Json& item : json) {
      if (!item.is_string())
        fail(key, "expected an array of strings, got " + shown(item) + " in it");
      value.push_back(item.get<std::string>());
    }
  });
}

void Fields::raw(const char* key, Json& value, const char* doc) {
  plain(*this, *state_, key, value, "see below", doc, [&](const Json& json) { value = json; });
}

bool Fields::enter(const char* key, const char* doc) {
  Frame& frame = state_->top();
  const std::string path = child_path(frame.path, key);
  if (reading()) {
    frame.known.push_back(key);
    if (!frame.input->contains(key)) return false;
    const Json& json = (*frame.input)[key];
    if (!json.is_object()) fail(key, "expected an object, got " + shown(json));
    state_->frames.push_back({&json, nullptr, path, {}});
  } else if (frame.output) {
    Json& json = (*frame.output)[key] = Json::object();
    state_->frames.push_back({nullptr, &json, path, {}});
  } else {
    state_->rows.push_back({path, "object", "", doc});
    state_->frames.push_back({nullptr, nullptr, path, {}});
  }
  return true;
}

std::optional<size_t> Fields::enter_list(const char* key, size_t count, const char* doc) {
  Frame& frame = state_->top();
  const std::string path = child_path(frame.path, key);
  if (reading()) {
    frame.known.push_back(key);
    if (!frame.input->contains(key)) return std::nullopt;
    const Json& json = (*frame.input)[key];
    if (!json.is_array()) fail(key, "expected an array of objects, got " + shown(json));
    state_->frames.push_back({&json, nullptr, path, {}});
    return json.size();
  }
  if (frame.output) {
    Json& json = (*frame.output)[key] = Json::array();
    for (size_t i = 0; i < count; ++i) json.push_back(Json::object());
    state_->frames.push_back({nullptr, &json, path, {}});
    return count;
  }
  state_->rows.push_back({path, "array of objects", "[]", doc});
  state_->frames.push_back({nullptr, nullptr, path, {}});
  return 0;
}

void Fields::enter_item(size_t index) {
  Frame& frame = state_->top();
  const std::string path = frame.path + "[" + std::to_string(index) + "]";
  if (reading()) {
    const Json& json = (*frame.input)[index];
    if (!json.is_object()) {
      throw ConfigError(state_->file + ": " + path + ": expected an object, got " + shown(json));
    }
    state_->frames.push_back({&json, nullptr, path, {}});
  } else {
    state_->frames.push_back({nullptr, frame.output ? &(*frame.output)[index] : nullptr, path, {}});
  }
}

bool Fields::begin_item_description() {
  if (state_->mode != Mode::kDescribe) return false;
  state_->frames.push_back({nullptr, nullptr, state_->top().path + "[]", {}});
  return true;
}

void Fields::leave() {
  if (reading() && state_->top().input->is_object()) finish();
  state_->frames.pop_back();
}

void Fields::finish() {
  const Frame& frame = state_->top();
  for (const auto& [key, value] : frame.input->items()) {
    if (std::find(frame.known.begin(), frame.known.end(), key) != frame.known.end()) continue;
    const std::string guess = nearest(key, frame.known);
    fail(key, guess.empty() ? "unknown key (allowed: " + joined(frame.known) + ")"
                            : "unknown key (did you mean " + guess + "?)");
  }
}

void Fields::take_output(Json& out) {
  out = std::move(state_->root);
}

std::vector<FieldInfo> Fields::take_description() {
  return std::move(state_->rows);
}

}  // namespace aspis::config
