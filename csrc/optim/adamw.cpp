#include "optim/adamw.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "core/error.h"

namespace aspis::optim {

// Parameters that one call of the fused kernel updates.
struct AdamW::Group {
  bool decay = true;
  double lr_scale = 1.0;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  std::vector<size_t> members;  // indices into parameters_
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> exp_avg;
  std::vector<at::Tensor> exp_avg_sq;
  at::Tensor step;  // float32 scalar on the device, shared by all members

  bool holds(const Parameter& p) const {
    return decay == p.decay && lr_scale == p.lr_scale && dtype == p.tensor.scalar_type() &&
           device == p.tensor.device();
  }
};

namespace {

constexpr const char* kStep = "step";
constexpr const char* kFirst = "exp_avg.";
constexpr const char* kSecond = "exp_avg_sq.";

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void check_parameter(const Parameter& p) {
  TORCH_CHECK(p.tensor.defined(), "AdamW: parameter ", p.name, " is undefined");
  const auto dtype = p.tensor.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble, "AdamW: parameter ", p.name,
              " must be float32 or float64, got ", dtype);
  // The fused kernel walks storage, so a parameter and its moments must be laid out alike.
  TORCH_CHECK(p.tensor.is_non_overlapping_and_dense(), "AdamW: parameter ", p.name,
              " must be dense, got strides ", p.tensor.strides());
  TORCH_CHECK(std::isfinite(p.lr_scale) && p.lr_scale >= 0.0, "AdamW: parameter ", p.name,
              ": lr_scale must be a number from 0, got ", p.lr_scale);
}

}  // namespace

AdamW::AdamW(const OptimConfig& config, std::vector<Parameter> parameters) : config_(config) {
  TORCH_CHECK(config_.betas.size() == 2, "AdamW: betas must be two numbers, got ",
              config_.betas.size());
  std::set<std::string> names;
  for (Parameter& p : parameters) {
    check_parameter(p);
    TORCH_CHECK(names.insert(p.name).second, "AdamW: the name ", p.name, " is given twice");
    if (!p.tensor.requires_grad()) {
      ++frozen_tensors_;
      frozen_elements_ += p.tensor.numel();
      continue;
    }
    auto group = std::find_if(groups_.begin(), groups_.end(), [&](auto& g) { return g.holds(p); });
    if (group == groups_.end()) {
      Group fresh;
      fresh.decay = p.decay;
      fresh.lr_scale = p.lr_scale;
      fresh.dtype = p.tensor.scalar_type();
      fresh.device = p.tensor.device();
      fresh.step = at::zeros({}, p.tensor.options().dtype(at::kFloat).requires_grad(false));
      group = groups_.insert(groups_.end(), std::move(fresh));
    }
    const at::Tensor plain = p.tensor.detach();
    group->members.push_back(parameters_.size());
    group->parameters.push_back(plain);
    group->exp_avg.push_back(at::zeros_like(plain));
    group->exp_avg_sq.push_back(at::zeros_like(plain));
    parameters_.push_back(std::move(p));
  }
}

AdamW::~AdamW() = default;
AdamW::AdamW(AdamW&&) noexcept = default;
AdamW& AdamW::operator=(AdamW&&) noexcept = default;

std::vector<at::Tensor> AdamW::gradients(bool required) const {
  std::vector<at::Tensor> out;
  for (const Parameter& p : parameters_) {
    const at::Tensor& gradient = p.tensor.grad();
    if (gradient.defined()) {
      out.push_back(gradient.detach());
    } else {
      TORCH_CHECK(!required, "AdamW: parameter ", p.name,
                  " has no gradient; freeze it (requires_grad false) or let the loss depend on it");
    }
  }
  return out;
}

double AdamW::clip_gradients(std::optional<double> max_norm) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> all = gradients(/*required=*/false);
  const double norm = global_norm(all);
  if (max_norm && std::isfinite(norm) && norm > *max_norm) {
    for (const at::Tensor& gradient : all) gradient.mul_(*max_norm / norm);
  }
  return norm;
}

void AdamW::step(double lr) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK(std::isfinite(lr) && lr >= 0.0, "AdamW: lr must be a number from 0, got ", lr);
  const std::vector<at::Tensor> all = gradients(/*required=*/true);
  ++steps_;
  for (Group& group : groups_) {
    std::vector<at::Tensor> grads;
    for (size_t i = 0; i < group.members.size(); ++i) {
      at::Tensor gradient = all[group.members[i]];
      const at::Tensor& parameter = group.parameters[i];
      if (gradient.strides() != parameter.strides()) {
        gradient = at::empty_like(parameter).copy_(gradient);
      }
      grads.push_back(std::move(gradient));
    }
    group.step.fill_(static_cast<double>(steps_));
    const std::vector<at::Tensor> steps(group.members.size(), group.step);
    at::_fused_adamw_(group.parameters, grads, group.exp_avg, group.exp_avg_sq, {}, steps,
                      lr * group.lr_scale, config_.betas[0], config_.betas[1],
                      group.decay ? config_.weight_decay : 0.0, config_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

void AdamW::zero_gradients() {
  for (const Parameter& p : parameters_) p.tensor.mutable_grad().reset();
}

int64_t AdamW::steps() const {
  return steps_;
}

int64_t AdamW::trained_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.tensor.numel();
  return count;
}

std::string AdamW::group_table() const {
  char line[160];
  const auto row = [&](const std::string& decay, const std::string& scale, const std::string& dtype,
                       const std::string& device, const std::string& tensors,
                       const std::string& elements) {
    std::snprintf(line, sizeof line, "%-8s  %-8s  %-8s  %-7s  %7s  %12s\n", decay.c_str(),
                  scale.c_str(), dtype.c_str(), device.c_str(), tensors.c_str(), elements.c_str());
    return std::string(line);
  };
  std::string out = row("decay", "lr scale", "dtype", "device", "tensors", "elements");
  for (const Group& group : groups_) {
    int64_t elements = 0;
    for (const at::Tensor& parameter : group.parameters) elements += parameter.numel();
    out += row(group.decay ? number(config_.weight_decay) : "none", number(group.lr_scale),
               group.dtype == at::kFloat ? "float32" : "float64", group.device.str(),
               std::to_string(group.members.size()), std::to_string(elements));
  }
  if (frozen_tensors_ > 0) {
    out += row("frozen", "", "", "", std::to_string(frozen_tensors_),
               std::to_string(frozen_elements_));
  }
  return out;
}

NamedTensors AdamW::state() const {
  NamedTensors out;
  out[kStep] = at::full({}, steps_, at::TensorOptions().dtype(at::kLong));
  for (const Group& group : groups_) {
    for (size_t i = 0; i < group.members.size(); ++i) {
      const std::string& name = parameters_[group.members[i]].name;
      out[kFirst + name] = group.exp_avg[i];
      out[kSecond + name] = group.exp_avg_sq[i];
    }
  }
  return out;
}

void AdamW::load_state(const NamedTensors& state) {
  const at::NoGradGuard no_grad;
  const NamedTensors own = this->state();
  std::vector<std::string> faults;
  for (const auto& [name, wanted] : own) {
    const auto found = state.find(name);
    if (found == state.end()) {
      faults.push_back(name + " is missing");
      continue;
    }
    const at::Tensor& tensor = found->second;
    if (tensor.sizes() != wanted.sizes()) {
      faults.push_back(name +
                       c10::str(" must have shape ", wanted.sizes(), ", got ", tensor.sizes()));
    } else if (tensor.scalar_type() != wanted.scalar_type()) {
      faults.push_back(name + " must be " + c10::toString(wanted.scalar_type()) + ", got " +
                       c10::toString(tensor.scalar_type()));
    }
  }
  for (const auto& [name, tensor] : state) {
    if (!own.contains(name)) faults.push_back(name + " belongs to no trained parameter");
  }
  if (!faults.empty()) {
    std::string text = "the optimiser state does not fit the trained parameters:";
    for (const std::string& fault : faults) text += "\n  " + fault;
    throw DataError(text, "resume with the model, and the frozen parameters, of the saved run");
  }
  const int64_t steps = state.at(kStep).item<int64_t>();
  if (steps < 0) {
    throw DataError("the optimiser state has step " + std::to_string(steps) + ", below 0");
  }
  for (const auto& [name, tensor] : own) {
    if (name != kStep) tensor.copy_(state.at(name));
  }
  steps_ = steps;
}

}  // namespace aspis::optim
