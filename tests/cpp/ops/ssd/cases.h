#pragma once
// Inputs for the tests of ssd, and the comparison of the op with its reference.

#include <ATen/TensorOperators.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/alloc.h"
#include "ops/ssd/ssd.h"

namespace aspis::test {

struct SsdCase {
  int64_t b = 2, l = 70, h = 4, p = 5, g = 2, n = 6;
  bool D = true, D_per_channel = false, z = true, dt_bias = true, dt_softplus = true,
       limits = false, initial_state = true;
};

// Random inputs in double that ask for last_state; A is negative.
ops::SsdArgs make_ssd(const SsdCase& c);

// Every differentiable input that is present, with its name.
std::vector<std::pair<std::string, at::Tensor*>> ssd_inputs(ops::SsdArgs& args);

// The floating inputs converted, without history; parameters and states to the dtype they take
// beside it.
ops::SsdArgs convert(const ops::SsdArgs& args, at::ScalarType type);

using SsdOp = std::function<std::tuple<at::Tensor, at::Tensor>(const ops::SsdArgs&)>;

// y, last_state (when asked for), then the gradients of ssd_inputs, for gradients `dy` and `dlast`
// of the outputs (either may be undefined). Names go to `names`.
std::vector<at::Tensor> outputs_and_gradients(const SsdOp& op, const ops::SsdArgs& args,
                                              const at::Tensor& dy, const at::Tensor& dlast,
                                              std::vector<std::string>* names = nullptr);

// Op against reference in double: outputs and every gradient.
void compare_with_reference(const std::string& what, const ops::SsdArgs& args);

// Fresh memory is NaN while this lives.
class Poisoned {
 public:
  Poisoned() : before_(poison_allocations(true)) {}
  ~Poisoned() { poison_allocations(before_); }

 private:
  bool before_;
};

at::Tensor int32(const std::vector<int32_t>& values);  // (values.size())

}  // namespace aspis::test
