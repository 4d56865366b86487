#include "data/glob.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

bool has_wildcard(std::string_view text) {
  return text.find_first_of("*?[\\") != std::string_view::npos;
}

// One of a set: `at` stands after the [; moves behind the ].
bool set_matches(std::string_view pattern, size_t& at, char c) {
  const bool negated = at < pattern.size() && (pattern[at] == '!' || pattern[at] == '^');
  if (negated) ++at;
  bool found = false;
  // A ] in the first place belongs to the set.
  for (bool first = true; at < pattern.size() && (first || pattern[at] != ']'); first = false) {
    const char low = pattern[at++];
    char high = low;
    if (at + 1 < pattern.size() && pattern[at] == '-' && pattern[at + 1] != ']') {
      high = pattern[at + 1];
      at += 2;
    }
    found |= low <= c && c <= high;
  }
  if (at >= pattern.size()) {
    throw ConfigError("pattern \"" + std::string(pattern) + "\": a [ without its ]",
                      "write \\[ for the character itself");
  }
  ++at;
  return found != negated;
}

// Whether one character matches the element of `pattern` at `at` (no star); moves behind it.
bool element_matches(std::string_view pattern, size_t& at, char c) {
  const char element = pattern[at++];
  if (element == '?') return true;
  if (element == '[') return set_matches(pattern, at, c);
  if (element == '\\' && at < pattern.size()) return pattern[at++] == c;
  return element == c;
}

[[noreturn]] void fail(const fs::path& path, const std::error_code& error) {
  throw DataError(path.string() + ": cannot be read: " + error.message());
}

class Walk {
 public:
  explicit Walk(std::vector<std::string> names) : names_(std::move(names)) {}

  std::vector<std::string> found;

  // Files below `folder` ("" the current one) that match names_[depth ..].
  void descend(const fs::path& folder, size_t depth) {
    const std::string& name = names_[depth];
    const bool last = depth + 1 == names_.size();
    if (name == "**") {
      if (!last) descend(folder, depth + 1);
      for (const fs::directory_entry& entry : entries(folder)) {
        if (hidden(entry)) continue;
        if (is_real_folder(entry)) {
          descend(folder / entry.path().filename(), depth);
        } else if (last) {
          take(folder / entry.path().filename());
        }
      }
    } else if (!has_wildcard(name)) {
      step(folder / name, depth);
    } else {
      for (const fs::directory_entry& entry : entries(folder)) {
        if (hidden(entry) && name[0] != '.') continue;
        if (name_matches(name, entry.path().filename().string())) {
          step(folder / entry.path().filename(), depth);
        }
      }
    }
  }

 private:
  void step(const fs::path& path, size_t depth) {
    std::error_code error;
    if (depth + 1 == names_.size()) {
      take(path);
    } else if (fs::is_directory(path, error)) {
      descend(path, depth + 1);
    }
  }
  void take(const fs::path& path) {
    std::error_code error;
    if (fs::is_regular_file(path, error)) found.push_back(path.string());
  }

  static bool hidden(const fs::directory_entry& entry) {
    return entry.path().filename().string()[0] == '.';
  }
  static bool is_real_folder(const fs::directory_entry& entry) {
    std::error_code error;
    return fs::is_directory(entry.symlink_status(error));
  }
  static std::vector<fs::directory_entry> entries(const fs::path& folder) {
    std::error_code error;
    fs::directory_iterator at(folder.empty() ? fs::path(".") : folder, error);
    if (error) fail(folder, error);
    std::vector<fs::directory_entry> all;
    for (; at != fs::directory_iterator(); at.increment(error)) {
      all.push_back(*at);
      if (error) break;
    }
    if (error) fail(folder, error);
    return all;
  }

  std::vector<std::string> names_;
};

}  // namespace

bool name_matches(std::string_view pattern, std::string_view name) {
  // Greedy with one way back: to the last star, which then takes one character more.
  size_t at = 0, place = 0, star = std::string_view::npos, star_place = 0;
  while (place < name.size()) {
    if (at < pattern.size() && pattern[at] == '*') {
      star = ++at;
      star_place = place;
      continue;
    }
    if (at < pattern.size() && element_matches(pattern, at, name[place])) {
      ++place;
      continue;
    }
    if (star == std::string_view::npos) return false;
    at = star;
    place = ++star_place;
  }
  while (at < pattern.size() && pattern[at] == '*') ++at;
  return at == pattern.size();
}

std::vector<std::string> glob_files(const std::string& pattern) {
  std::error_code error;
  if (!has_wildcard(pattern)) {
    if (!fs::exists(pattern, error)) throw DataError(pattern + ": no such file");
    if (fs::is_directory(pattern, error)) {
      throw DataError(pattern + ": is a folder",
                      "name its files, for example \"" + pattern + "/**/*.txt\"");
    }
    if (!fs::is_regular_file(pattern, error)) {
      throw DataError(pattern + ": is not a regular file");
    }
    return {pattern};
  }
  std::vector<std::string> names;
  const fs::path path(pattern);
  for (const fs::path& name : path.relative_path()) {
    if (!name.empty()) names.push_back(name.string());
  }
  if (names.empty()) throw DataError(pattern + ": no file matches");
  Walk walk(std::move(names));
  walk.descend(path.root_path(), 0);
  if (walk.found.empty()) {
    throw DataError(pattern + ": no file matches",
                    "** stands for any folders, * for any characters of one name; quote the "
                    "pattern, so that the shell does not expand it");
  }
  std::sort(walk.found.begin(), walk.found.end());
  walk.found.erase(std::unique(walk.found.begin(), walk.found.end()), walk.found.end());
  return walk.found;
}

}  // namespace aspis::data
