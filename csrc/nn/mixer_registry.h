#pragma once
// The kinds of layers a model can be made of, by pattern letter. A kind registers itself from its
// own .cpp file, so that a new one adds files and changes none:
//
//   namespace { const MixerRegistration kRegistered(
//       mixer_kind<Mamba2, Mamba2Config>('M', "mamba2", "Mamba-2 ...")); }
//
// The mixer class has a constructor (const Config&, const MixerContext&) that checks what the
// config asks for; the config struct has a `fields` function (config/fields.h).

#include <c10/core/TensorOptions.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/fields.h"
#include "nn/mixer.h"

namespace aspis::nn {

// What a layer is built into.
struct MixerContext {
  int64_t d_model = 0;
  OpsBackend backend = OpsBackend::kKernels;
  at::TensorOptions options;  // dtype and device of the parameters; may name the meta device
  std::string where;          // opens messages: "run.json: model.blocks.M"
};

// Throws ConfigError "WHERE.key: message".
[[noreturn]] void fail_config(const MixerContext& context, const std::string& key,
                              const std::string& message);

struct MixerKind;

// The settings of one layer, whatever its kind: starts with the kind's defaults, and can be read
// over several times (blocks.M first, then the overrides of one slot).
class BlockConfig {
 public:
  virtual ~BlockConfig() = default;

  virtual const MixerKind& kind() const = 0;
  virtual std::unique_ptr<BlockConfig> clone() const = 0;

  // Reads an object over what is there. Throws ConfigError "FILE: PATH.key: ...".
  virtual void read(const config::Json& json, const std::string& file, const std::string& path) = 0;
  // Every field.
  virtual void write(config::Json& out) const = 0;

  // Throws ConfigError naming the key if the settings do not fit together.
  virtual std::shared_ptr<Mixer> build(const MixerContext& context) const = 0;
};

struct MixerKind {
  char letter = 0;                                            // in layer patterns
  std::string name;                                           // "mamba2"
  std::string doc;                                            // one sentence
  std::function<std::unique_ptr<BlockConfig>()> make_config;  // with the defaults
  std::function<std::vector<config::FieldInfo>(const std::string& path)> describe;
};

// Every kind, in order of letters.
std::vector<const MixerKind*> mixer_kinds();

// nullptr if no kind has the letter.
const MixerKind* find_mixer_kind(char letter);

// Adds a kind while the library loads. Two kinds with one letter are a mistake in the program.
struct MixerRegistration {
  explicit MixerRegistration(MixerKind kind);
};

template <typename M, typename C>
class TypedBlockConfig final : public BlockConfig {
 public:
  explicit TypedBlockConfig(char letter) : letter_(letter) {}

  const MixerKind& kind() const override { return *find_mixer_kind(letter_); }
  std::unique_ptr<BlockConfig> clone() const override {
    return std::make_unique<TypedBlockConfig>(*this);
  }
  void read(const config::Json& json, const std::string& file, const std::string& path) override {
    config::read(json, file, config_, path);
  }
  void write(config::Json& out) const override { config::write(config_, out); }
  std::shared_ptr<Mixer> build(const MixerContext& context) const override {
    return std::make_shared<M>(config_, context);
  }

  const C& config() const { return config_; }

 private:
  char letter_;
  C config_;
};

template <typename M, typename C>
MixerKind mixer_kind(char letter, const std::string& name, const std::string& doc) {
  return {letter, name, doc, [letter] { return std::make_unique<TypedBlockConfig<M, C>>(letter); },
          [](const std::string& path) { return config::describe<C>(path); }};
}

}  // namespace aspis::nn
