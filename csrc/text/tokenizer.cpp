#include "text/tokenizer.h"

#include "config/json.h"
#include "core/error.h"
#include "text/byte_tokenizer.h"

namespace aspis::text {
namespace {

struct Kind {
  const char* name;
  std::unique_ptr<Tokenizer> (*make)();
};

constexpr Kind kKinds[] = {
    {"bytes", [] { return std::unique_ptr<Tokenizer>(new ByteTokenizer()); }},
};

}  // namespace

std::vector<int64_t> Tokenizer::encode(std::string_view bytes) const {
  std::vector<int64_t> ids;
  encode(bytes, ids);
  return ids;
}

std::vector<std::string> tokenizer_names() {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.emplace_back(kind.name);
  return names;
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name) {
  for (const Kind& kind : kKinds) {
    if (name == kind.name) return kind.make();
  }
  throw ConfigError("tokenizer \"" + name +
                    "\": not known (allowed: " + config::joined(tokenizer_names()) + ")");
}

}  // namespace aspis::text
