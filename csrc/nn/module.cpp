#include "nn/module.h"

#include <ATen/ops/empty.h>

namespace aspis::nn {

at::Tensor Module::add_parameter(const std::string& name, at::IntArrayRef sizes,
                                 const at::TensorOptions& options, ParameterHints hints) {
  at::Tensor tensor = at::empty(sizes, options);
  tensor.set_requires_grad(true);
  own_.push_back({name, tensor, hints});
  return tensor;
}

void Module::collect(const std::string& prefix, std::vector<NamedParameter>& out) const {
  for (const NamedParameter& parameter : own_) {
    out.push_back({prefix + parameter.name, parameter.tensor, parameter.hints});
  }
  for (const auto& [name, child] : children_) child->collect(prefix + name + ".", out);
}

std::vector<NamedParameter> Module::parameters() const {
  std::vector<NamedParameter> out;
  collect("", out);
  return out;
}

int64_t Module::parameter_count() const {
  int64_t count = 0;
  for (const NamedParameter& parameter : parameters()) count += parameter.tensor.numel();
  return count;
}

}  // namespace aspis::nn
