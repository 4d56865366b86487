#include "config/json.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/error.h"

namespace aspis::config {

namespace fs = std::filesystem;

Json parse_json_text(const std::string& text, const std::string& name) {
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto key = parsed.get<std::string>();
      if (!keys.back().insert(key).second && duplicate.empty()) duplicate = key;
    }
    return true;
  };
  Json root;
  try {
    root = Json::parse(text, watch);
  } catch (const nlohmann::json::parse_error& error) {
    const auto upto = std::min<size_t>(error.byte > 0 ? error.byte - 1 : 0, text.size());
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(upto), '\n');
    std::string reason = error.what();
    if (const auto colon = reason.find("syntax error"); colon != std::string::npos) {
      reason = reason.substr(colon);
    }
    throw ConfigError(name + ": line " + std::to_string(line) + ": not valid JSON: " + reason,
                      "JSON has no comments and no trailing commas");
  }
  if (!duplicate.empty()) {
    throw ConfigError(name + ": the key \"" + duplicate + "\" stands twice in one object",
                      "remove one of them: which one should count cannot be known");
  }
  return root;
}

Json parse_json_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw DataError(file.string() + ": no such file, or it cannot be read");
  std::ostringstream text;
  text << in.rdbuf();
  return parse_json_text(text.str(), file.string());
}

void apply_assignment(Json& root, const std::string& assignment) {
  const auto equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw MisuseError("--set " + assignment + ": expected PATH=VALUE",
                      "for example --set optim.lr=3e-4");
  }
  const std::string value_text = assignment.substr(equals + 1);
  Json* at = &root;
  std::stringstream path(assignment.substr(0, equals));
  std::string key, walked;
  while (std::getline(path, key, '.')) {
    if (!at->is_object() && !at->is_null()) {
      throw ConfigError("--set " + assignment + ": " + walked + " is not an object");
    }
    at = &(*at)[key];
    walked += (walked.empty() ? "" : ".") + key;
  }
  Json value = Json::parse(value_text, nullptr, /*allow_exceptions=*/false);
  *at = value.is_discarded() ? Json(value_text) : value;
}

std::string to_text(const Json& json) {
  return json.dump(2) + "\n";
}

void write_text_file(const fs::path& file, const std::string& text) {
  const fs::path temporary = file.string() + ".tmp";
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out << text;
    out.flush();
    if (!out)
      throw DataError(temporary.string() + ": cannot be written (disk full or no permission)");
  }
  std::error_code error;
  fs::rename(temporary, file, error);
  if (error) throw DataError(file.string() + ": cannot be written: " + error.message());
}

namespace {

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t up = row[j];
      row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = up;
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : separator) + word;
  return out;
}

}  // namespace aspis::config
