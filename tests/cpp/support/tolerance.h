#pragma once
// The project's tolerances, in one place: no test states a number of its own.

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace aspis::test {

// ||ours - ref|| / ||ref|| in double; NaN or a different shape gives infinity. Empty tensors give
// 0.
double relative_error(const at::Tensor& ours, const at::Tensor& ref);

// Double against double: equal but for the order of additions (1e-10 relative norm).
void check_equal_in_double(const std::string& what, const at::Tensor& ours, const at::Tensor& ref);

// The two-times rule: ref = reference in double, plain = the honest computation in the tested
// dtype.
//   ||ours - ref|| <= 2 ||plain - ref|| + eps(dtype of ours) ||ref||
void check_two_times(const std::string& what, const at::Tensor& ours, const at::Tensor& plain,
                     const at::Tensor& ref);

// Same bits, NaN equal to NaN.
void check_bitwise(const std::string& what, const at::Tensor& ours, const at::Tensor& other);

// Central differences in double against autograd, for every input that requires grad and every
// output that is differentiable: `f` maps inputs to outputs. Directions are random, so large inputs
// stay cheap; tiny inputs (<= 64 elements) are checked element by element.
void check_gradients(
    const std::string& what,
    const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& f,
    const std::vector<at::Tensor>& inputs);

// The text of the exception that `call` throws; fails the test when nothing is thrown.
std::string message_of(const std::function<void()>& call);

}  // namespace aspis::test
