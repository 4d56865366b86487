#pragma once
// The layer pattern of a hybrid from its shares of attention and MLP layers: the allocation
// algorithm that Megatron-LM published with "An Empirical Study of Mamba-based Language Models"
// (arXiv 2406.07887). It spreads attention evenly with Mamba runs at both ends, then spreads the
// MLPs over what is left, pushed to the right.

#include <cstdint>
#include <string>

namespace aspis::models {

// A string of `layers` letters M, *, - with round(layers * attention_ratio) attention layers and
// round(layers * mlp_ratio) MLPs, halves rounded to even. Ratios lie in [0, 1] and add up to at
// most 1. Throws std::invalid_argument with a sentence otherwise, also when both rounded counts do
// not fit.
std::string allocate_layers(int64_t layers, double attention_ratio, double mlp_ratio);

}  // namespace aspis::models
