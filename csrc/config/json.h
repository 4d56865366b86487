#pragma once
// JSON files in and out, strictly: duplicate keys, comments and trailing commas are errors that
// name file and place. Objects keep the order of their keys.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace aspis::config {

using Json = nlohmann::ordered_json;

// Throw ConfigError (a missing file: DataError). `name` stands for the file in messages.
Json parse_json_file(const std::filesystem::path& file);
Json parse_json_text(const std::string& text, const std::string& name);

// Applies "optim.lr=3e-4": walks the dotted path, creates missing objects, puts the value there
// (JSON where it parses as JSON, else a string). Whether the key means anything is for the reader
// to say.
void apply_assignment(Json& root, const std::string& assignment);

// Two-space indentation, a final newline.
std::string to_text(const Json& json);

// Writes through a temporary file and a rename, so that a reader never sees half a file.
void write_text_file(const std::filesystem::path& file, const std::string& text);

// The candidate nearest to `word` by edit distance, or "" when none is close.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

// "M, m, *": a list for messages.
std::string joined(const std::vector<std::string>& words, const std::string& separator = ", ");

}  // namespace aspis::config
