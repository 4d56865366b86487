#include "nn/mixer_registry.h"

#include <c10/util/Exception.h>

#include <map>
#include <utility>

#include "core/error.h"

namespace aspis::nn {

namespace {

// Made on first use, because kinds register while the library loads, in any order.
std::map<char, MixerKind>& registry() {
  static std::map<char, MixerKind> kinds;
  return kinds;
}

}  // namespace

void fail_config(const MixerContext& context, const std::string& key, const std::string& message) {
  throw ConfigError(context.where + "." + key + ": " + message);
}

std::vector<const MixerKind*> mixer_kinds() {
  std::vector<const MixerKind*> out;
  for (const auto& [letter, kind] : registry()) out.push_back(&kind);
  return out;
}

const MixerKind* find_mixer_kind(char letter) {
  const auto found = registry().find(letter);
  return found == registry().end() ? nullptr : &found->second;
}

MixerRegistration::MixerRegistration(MixerKind kind) {
  const char letter = kind.letter;
  const bool added = registry().emplace(letter, std::move(kind)).second;
  TORCH_INTERNAL_ASSERT(added, "two kinds of mixer have the letter ", letter);
}

}  // namespace aspis::nn
