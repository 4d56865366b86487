#pragma once
// Patterns -> paths of regular files.
//
// Within one folder name: * any characters, ? one character, [a-z] and [!a-z] one of a set; `**` as
// a whole name: any number of folders, none too. Wildcards do not match a leading dot, and ** does
// not follow links to folders (which may lead back up). A backslash takes the next character as it
// is. A pattern without wildcards is a path.

#include <string>
#include <string_view>
#include <vector>

namespace aspis::data {

// Whether a file or folder name matches a pattern of one name. Throws ConfigError for a [ without
// ].
bool name_matches(std::string_view pattern, std::string_view name);

// Paths that match, sorted, each once. Throws DataError when nothing matches, and for a pattern
// without wildcards when the path is missing or no regular file. Folders that may not be read are
// an error too, not a silent gap.
std::vector<std::string> glob_files(const std::string& pattern);

}  // namespace aspis::data
