#pragma once
// What the tests of the layers share: building from JSON text, filling, looking up parameters.

#include <memory>
#include <string>

#include "nn/mixer_registry.h"

namespace aspis::test {

// The block config of the letter with this JSON read over the defaults.
std::unique_ptr<nn::BlockConfig> block_config(char letter, const std::string& json);

nn::MixerContext mixer_context(char letter, int64_t d_model,
                               nn::OpsBackend backend = nn::OpsBackend::kKernels);

// In double, uninitialised.
std::shared_ptr<nn::Mixer> build_mixer(char letter, const std::string& json, int64_t d_model,
                                       nn::OpsBackend backend = nn::OpsBackend::kKernels);

// Random numbers of a size that keeps every activation away from its flat parts.
void fill_parameters(const nn::Module& module);

// The parameter of this name; fails the test if there is none.
at::Tensor parameter(const nn::Module& module, const std::string& name);

}  // namespace aspis::test
