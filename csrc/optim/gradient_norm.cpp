#include <ATen/Parallel.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "optim/adamw.h"

namespace aspis::optim {

namespace {

// Elements added by one task. Fixed, so that the order of additions does not depend on threads.
constexpr int64_t kChunk = 1 << 15;
constexpr int64_t kLanes = 8;

template <typename T>
double sum_of_squares(const T* values, int64_t count) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const auto value = static_cast<double>(values[i + j]);
      lanes[j] += value * value;
    }
  }
  for (; i < count; ++i) lanes[i % kLanes] += static_cast<double>(values[i]) * values[i];
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

double cpu_sum_of_squares(const at::Tensor& gradient) {
  const at::Tensor dense = gradient.contiguous();
  const int64_t count = dense.numel();
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  std::vector<double> partial(static_cast<size_t>(chunks));
  dispatch_float_double("global_norm", dense.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* values = dense.const_data_ptr<T>();
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t first = c * kChunk;
        partial[static_cast<size_t>(c)] =
            sum_of_squares(values + first, std::min(kChunk, count - first));
      }
    });
  });
  double sum = 0.0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace

double global_norm(const std::vector<at::Tensor>& gradients) {
  double sum = 0.0;
  std::vector<at::Tensor> norms;  // on other devices: one transfer at the end
  for (const at::Tensor& gradient : gradients) {
    if (gradient.numel() == 0) continue;
    if (gradient.is_cpu()) {
      sum += cpu_sum_of_squares(gradient);
    } else {
      // A reduction on a GPU has a fixed order for a fixed shape.
      norms.push_back(at::linalg_vector_norm(gradient, 2, std::nullopt, false, at::kDouble));
    }
  }
  if (!norms.empty()) sum += cpu_sum_of_squares(at::stack(norms).cpu());
  return std::sqrt(sum);
}

}  // namespace aspis::optim
