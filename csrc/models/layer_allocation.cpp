#include "models/layer_allocation.h"

#include <cmath>
#include <stdexcept>

namespace aspis::models {

namespace {

// Walks the slots that still hold M and turns `count` of them into `letter`, so that between two of
// them stand about `run` others. A counter loses one at each slot that stays and gains a run at
// each that turns.
void spread(std::string& pattern, char letter, double run) {
  double left = run;
  for (char& slot : pattern) {
    if (slot != 'M') continue;
    if (left < 0.5) {
      slot = letter;
      left += run;
    } else {
      left -= 1.0;
    }
  }
}

}  // namespace

std::string allocate_layers(int64_t layers, double attention_ratio, double mlp_ratio) {
  if (layers < 1) throw std::invalid_argument("the number of layers must be at least 1");
  if (!(attention_ratio >= 0) || !(mlp_ratio >= 0) || attention_ratio + mlp_ratio > 1) {
    throw std::invalid_argument(
        "attention_ratio and mlp_ratio must not be negative and must add up to at most 1");
  }
  // nearbyint rounds halves to even, as the published code does.
  const double length = static_cast<double>(layers);
  const double attention = std::nearbyint(length * attention_ratio);
  const double mlp = std::nearbyint(length * mlp_ratio);
  const double mamba = length - attention - mlp;
  if (mamba < 0) {
    throw std::invalid_argument("the rounded numbers of attention and MLP layers exceed the " +
                                std::to_string(layers) + " layers");
  }
  std::string pattern(static_cast<size_t>(layers), 'M');
  // One more run of Mamba layers than attention layers: the stack starts and ends with one.
  if (attention > 0) spread(pattern, '*', (length - attention) / (attention + 1));
  if (mlp > 0) spread(pattern, '-', mamba / mlp);
  return pattern;
}

}  // namespace aspis::models
