#pragma once
// How fresh parameters are drawn. Three presets (config key `init`):
//
//   study      the code nearest to "An Empirical Study of Mamba-based Language Models"
//   (Megatron-LM, June
//              2024): N(0, 0.02) for embedding, head, attention and MLP; Mamba's projections
//              uniform
//   megatron   later Megatron-LM: N(0, 0.02) for Mamba's projections too
//   mamba_ssm  state-spaces/mamba: everything uniform by fan-in but the embedding
//
//   tensor                    study                  megatron             mamba_ssm
//   embedding                 N(0, 0.02)             N(0, 0.02)           N(0, 0.02)
//   head (untied)             N(0, 0.02)             N(0, 0.02)           U(1/sqrt(fan_in))
//   q, k, v, up, gate         N(0, 0.02)             N(0, 0.02)           U(1/sqrt(fan_in))
//   attention o, MLP down     N(0, 0.02/sqrt(r))     N(0, 0.02/sqrt(L))   U(1/sqrt(fan_in))/sqrt(m)
//   Mamba in_proj, x_proj     U(1/sqrt(fan_in))      N(0, 0.02)           U(1/sqrt(fan_in))
//   Mamba out_proj            N(0, 0.02/sqrt(L))     N(0, 0.02/sqrt(L))   U(1/sqrt(fan_in))/sqrt(m)
//   conv weight and bias      U(1/sqrt(w))           same                 same
//   A_log                     log U(a_init_range) per head (Mamba-2), log(1..n) per channel
//   (Mamba-1) D, norm gains             1 (layer_1p keeps the gain minus one: 0) dt_bias,
//   dt_proj.bias     dt = exp U(log dt_min, log dt_max), raised to dt_init_floor; the bias is the
//                             inverse softplus of dt
//   dt_proj.weight            U(dt_scale / sqrt(dt_rank))
//   biases of linear maps     0
//
// N(0, s) names the standard deviation, U(a) is uniform in [-a, a]. L = number of slots. r = 2 L
// where a pattern has Mamba layers (the early code kept the Transformer's factor of two) and L
// where it has none (there a Transformer block is two slots). m = slots that are no MLP: mamba_ssm
// counts an MLP to its block.
//
// Every parameter has a random stream of its own, numbered by its name (core/random.h): a value
// depends on seed, name and place in the tensor, on nothing else.

#include <string>
#include <vector>

#include "models/model_config.h"
#include "nn/module.h"

namespace aspis::models {

struct Distribution {
  enum class Kind {
    kConstant,         // a
    kNormal,           // mean 0, standard deviation a
    kUniform,          // [-a, a]
    kLogOfUniform,     // log of a number uniform in [a, b]
    kLogOfCount,       // log(1), log(2) ... along the last dimension
    kInverseSoftplus,  // of max(exp(uniform in [log a, log b]), floor)
  };
  Kind kind = Kind::kConstant;
  double a = 0.0;
  double b = 0.0;
  double floor = 0.0;
};

// What the config's preset prescribes for a parameter. Throws std::invalid_argument for a name
// without a rule.
Distribution initial_distribution(const ModelConfig& config, const std::string& name,
                                  at::IntArrayRef sizes);

// Fills a tensor in place, on any device; values are computed in double and rounded once.
void fill_from(const Distribution& distribution, uint64_t seed, const std::string& name,
               const at::Tensor& tensor);

}  // namespace aspis::models
