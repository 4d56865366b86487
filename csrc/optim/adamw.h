#pragma once
// AdamW over a list of named parameters, on CPU and GPU through Torch's fused kernel.
//
//   m = beta1 m + (1 - beta1) g,    v = beta2 v + (1 - beta2) g^2,    t = steps + 1
//   p = p (1 - lr weight_decay) - lr mhat / (sqrt(vhat) + eps)
//   with mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t)
//
// where lr is the rate given to step() times the parameter's lr_scale, and weight_decay is 0 where
// the parameter's decay flag is false.
//
// Use, once per update:
//   backward over all micro-batches; (sum gradients over ranks)
//   const double norm = optimizer.clip_gradients(clip_norm);
//   if (!std::isfinite(norm)) ...the caller decides...; else optimizer.step(lr);
//   optimizer.zero_gradients();

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "optim/optim_config.h"

namespace aspis::optim {

// What the optimiser knows of a parameter. The tensor shares storage with the model's.
struct Parameter {
  std::string name;
  at::Tensor tensor;      // float32 or float64, dense; trained when it requires grad
  bool decay = true;      // whether weight decay applies
  double lr_scale = 1.0;  // multiplies the learning rate
};

using NamedTensors = std::map<std::string, at::Tensor>;

// The global L2 norm of these gradients. Squares are added in double, in an order that depends on
// the shapes alone: the same bits for any number of threads. Tensors may lie on several devices.
double global_norm(const std::vector<at::Tensor>& gradients);

class AdamW {
 public:
  // Parameters that do not require grad are frozen: counted in the table, never touched. Throws on
  // a name given twice, a dtype other than float32 / float64, betas that are not two.
  AdamW(const OptimConfig& config, std::vector<Parameter> parameters);
  ~AdamW();
  AdamW(AdamW&&) noexcept;
  AdamW& operator=(AdamW&&) noexcept;

  // Scales the gradients so that their global L2 norm is at most `max_norm` (nullopt: no limit) and
  // returns the norm before that. A norm that is not finite leaves them as they are: the caller
  // looks at the returned value and decides.
  double clip_gradients(std::optional<double> max_norm);

  // One update from the gradients in place, at this learning rate (schedule applied by the caller).
  // Throws when a trained parameter has no gradient, naming it.
  void step(double lr);

  // Drops all gradients, so that the next backward pass starts from nothing.
  void zero_gradients();

  // Updates made since the start of the run, loaded ones included.
  int64_t steps() const;

  // Trained elements.
  int64_t trained_count() const;

  // One line per group of parameters treated alike, for the start-up output:
  //   decay   lr scale   dtype     device   tensors    elements
  //   0.1     1          float32   cpu           12     1048576
  std::string group_table() const;

  // "step" (int64 scalar), "exp_avg.NAME" and "exp_avg_sq.NAME" per trained parameter, for a
  // checkpoint. They share storage with the optimiser.
  NamedTensors state() const;

  // Copies such a state in. Throws DataError that lists missing and unexpected names, wrong shapes
  // and wrong dtypes; then nothing has changed.
  void load_state(const NamedTensors& state);

 private:
  struct Group;
  std::vector<at::Tensor> gradients(bool required) const;

  OptimConfig config_;
  std::vector<Parameter> parameters_;  // trained ones, in the given order
  int64_t frozen_tensors_ = 0;
  int64_t frozen_elements_ = 0;
  std::vector<Group> groups_;
  int64_t steps_ = 0;
};

}  // namespace aspis::optim
