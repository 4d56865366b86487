#include "models/initialisation.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "core/random.h"

namespace aspis::models {

namespace {

using Kind = Distribution::Kind;

constexpr double kStandardDeviation = 0.02;

// The numbers of layers that the presets scale residual writers by.
struct Depth {
  double slots = 0;   // L
  double study = 0;   // r
  double mixers = 0;  // m
};

Depth depth_of(const ModelConfig& config) {
  const std::string letters = config.letters();
  const auto count = [&](char letter) {
    return static_cast<double>(std::count(letters.begin(), letters.end(), letter));
  };
  Depth depth;
  depth.slots = static_cast<double>(letters.size());
  depth.study = count('M') + count('m') > 0 ? 2 * depth.slots : depth.slots;
  depth.mixers = std::max(1.0, depth.slots - count('-'));
  return depth;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

template <typename... Names>
bool is_one_of(const std::string& name, Names... names) {
  return ((name == names) || ...);
}

Distribution constant(double value) {
  return {Kind::kConstant, value};
}
Distribution normal(double deviation) {
  return {Kind::kNormal, deviation};
}
Distribution uniform(double bound) {
  return {Kind::kUniform, bound};
}

double fan_in_bound(at::IntArrayRef sizes) {
  return 1.0 / std::sqrt(static_cast<double>(sizes[1]));
}

// `local` is the name below layers.i.mixer.
Distribution mixer_distribution(const ModelConfig& config, const LayerSlot& layer,
                                const std::string& local, at::IntArrayRef sizes) {
  const std::string& preset = config.init;
  const bool fan_in = preset == "mamba_ssm";
  const Depth depth = depth_of(config);
  config::Json block;
  layer.block->write(block);

  if (local == "A_log") {
    if (sizes.size() == 2) return {Kind::kLogOfCount};
    return {Kind::kLogOfUniform, block.at("a_init_range").at(0).get<double>(),
            block.at("a_init_range").at(1).get<double>()};
  }
  if (is_one_of(local, "D", "norm.weight")) return constant(1.0);
  if (is_one_of(local, "dt_bias", "dt_proj.bias")) {
    return {Kind::kInverseSoftplus, block.at("dt_min").get<double>(),
            block.at("dt_max").get<double>(), block.at("dt_init_floor").get<double>()};
  }
  if (local == "dt_proj.weight") {
    return uniform(block.at("dt_scale").get<double>() * fan_in_bound(sizes));
  }
  if (is_one_of(local, "conv1d.weight", "conv1d.bias")) {
    return uniform(1.0 / std::sqrt(block.at("d_conv").get<double>()));
  }
  if (is_one_of(local, "in_proj.weight", "x_proj.weight")) {
    return preset == "megatron" ? normal(kStandardDeviation) : uniform(fan_in_bound(sizes));
  }
  if (is_one_of(local, "out_proj.weight", "o_proj.weight", "down_proj.weight")) {
    if (fan_in) return uniform(fan_in_bound(sizes) / std::sqrt(depth.mixers));
    const bool mamba = local == "out_proj.weight";
    return normal(kStandardDeviation /
                  std::sqrt(preset == "study" && !mamba ? depth.study : depth.slots));
  }
  if (is_one_of(local, "q_proj.weight", "k_proj.weight", "v_proj.weight", "up_proj.weight",
                "gate_proj.weight")) {
    return fan_in ? uniform(fan_in_bound(sizes)) : normal(kStandardDeviation);
  }
  if (ends_with(local, "_proj.bias")) return constant(0.0);
  throw std::invalid_argument("no rule draws the parameter " + local + " of the layer kind '" +
                              std::string(1, layer.letter) +
                              "': models/initialisation.cpp needs one");
}

Distribution norm_distribution(const ModelConfig& config, const std::string& name) {
  if (ends_with(name, ".bias")) return constant(0.0);
  return constant(config.norm.type == "layer_1p" ? 0.0 : 1.0);
}

// Values 2 pair and 2 pair + 1 of the random kinds.
std::pair<double, double> draw(const Distribution& d, uint64_t seed, uint64_t stream,
                               uint64_t pair) {
  if (d.kind == Kind::kNormal) {
    const auto [x, y] = normal_pair(seed, stream, pair);
    return {d.a * x, d.a * y};
  }
  const auto map = [&](double u) {
    if (d.kind == Kind::kUniform) return d.a * (2 * u - 1);
    if (d.kind == Kind::kLogOfUniform) return std::log(d.a + (d.b - d.a) * u);
    const double dt =
        std::max(std::exp(std::log(d.a) + (std::log(d.b) - std::log(d.a)) * u), d.floor);
    return dt + std::log(-std::expm1(-dt));
  };
  const auto [u, v] = uniform_pair(seed, stream, pair);
  return {map(u), map(v)};
}

template <typename T>
void fill_values(const Distribution& d, uint64_t seed, uint64_t stream, int64_t count, int64_t row,
                 T* out) {
  const int64_t grain = 1 << 14;
  if (d.kind == Kind::kConstant || d.kind == Kind::kLogOfCount) {
    for (int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<T>(
          d.kind == Kind::kConstant ? d.a : std::log(static_cast<double>(i % row + 1)));
    }
    return;
  }
  at::parallel_for(0, (count + 1) / 2, grain, [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const auto [x, y] = draw(d, seed, stream, static_cast<uint64_t>(pair));
      out[2 * pair] = static_cast<T>(x);
      if (2 * pair + 1 < count) out[2 * pair + 1] = static_cast<T>(y);
    }
  });
}

}  // namespace

Distribution initial_distribution(const ModelConfig& config, const std::string& name,
                                  at::IntArrayRef sizes) {
  if (name == "embedding.weight") return normal(kStandardDeviation);
  if (name == "lm_head.weight") {
    return config.init == "mamba_ssm" ? uniform(fan_in_bound(sizes)) : normal(kStandardDeviation);
  }
  const std::string prefix = "layers.", inside = ".mixer.";
  if (name.rfind(prefix, 0) == 0) {
    const size_t layer = std::stoul(name.substr(prefix.size()));
    const size_t at = name.find(inside);
    if (at != std::string::npos) {
      return mixer_distribution(config, config.layers.at(layer), name.substr(at + inside.size()),
                                sizes);
    }
  }
  if (name.rfind("norm_f.", 0) == 0 || name.find(".norm.") != std::string::npos) {
    return norm_distribution(config, name);
  }
  throw std::invalid_argument("no rule draws the parameter " + name +
                              ": models/initialisation.cpp needs one");
}

void fill_from(const Distribution& distribution, uint64_t seed, const std::string& name,
               const at::Tensor& tensor) {
  const at::NoGradGuard no_grad;
  const uint64_t stream = stream_of(name);
  const int64_t row = tensor.dim() > 0 ? tensor.size(-1) : 1;
  const bool direct = tensor.is_cpu() && tensor.is_contiguous();
  const auto fill = [&](const at::Tensor& target) {
    if (target.scalar_type() == at::kDouble) {
      fill_values(distribution, seed, stream, target.numel(), row,
                  target.mutable_data_ptr<double>());
    } else {
      fill_values(distribution, seed, stream, target.numel(), row,
                  target.mutable_data_ptr<float>());
    }
  };
  if (direct && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble)) {
    fill(tensor);
    return;
  }
  // From double, so that a half type is rounded once.
  const at::Tensor values = at::empty(tensor.sizes(), at::TensorOptions().dtype(at::kDouble));
  fill(values);
  tensor.copy_(values);
}

}  // namespace aspis::models
