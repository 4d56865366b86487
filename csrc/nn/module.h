#pragma once
// A tree of named parameters. Smaller than torch::nn::Module on purpose: its header costs ten
// seconds a file and knows nothing of optimiser hints.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace aspis::nn {

// What the optimiser should know of a parameter; it lives with the module that owns the parameter.
struct ParameterHints {
  bool decay = true;      // weight decay applies (never to A_log, D, dt_bias, norms and biases)
  double lr_scale = 1.0;  // multiplies the learning rate
};

struct NamedParameter {
  std::string name;  // "layers.3.mixer.in_proj.weight"
  at::Tensor tensor;
  ParameterHints hints;
};

class Module {
 public:
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // All parameters below this module in order of registration, names joined by dots.
  std::vector<NamedParameter> parameters() const;
  int64_t parameter_count() const;

 protected:
  Module() = default;

  // Registers and returns an uninitialised parameter that requires grad. `options` may name the
  // meta device.
  at::Tensor add_parameter(const std::string& name, at::IntArrayRef sizes,
                           const at::TensorOptions& options, ParameterHints hints = {});
  // Registers a child; "0", "1" ... are the names of list items.
  template <typename M>
  std::shared_ptr<M> add_module(const std::string& name, std::shared_ptr<M> child) {
    children_.emplace_back(name, child);
    return child;
  }

 private:
  void collect(const std::string& prefix, std::vector<NamedParameter>& out) const;

  std::vector<NamedParameter> own_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
};

}  // namespace aspis::nn
