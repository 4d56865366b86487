#include "core/alloc.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <atomic>
#include <limits>

namespace aspis {
namespace {

std::atomic<bool> poison{false};

at::Tensor poisoned(at::Tensor tensor) {
  if (poison.load(std::memory_order_relaxed) && !tensor.is_meta()) {
    if (tensor.is_floating_point()) {
      tensor.fill_(std::numeric_limits<double>::quiet_NaN());
    } else if (tensor.scalar_type() == at::kLong) {
      tensor.fill_(std::numeric_limits<int64_t>::max());
    } else if (tensor.scalar_type() == at::kInt) {
      tensor.fill_(std::numeric_limits<int32_t>::max());
    }
  }
  return tensor;
}

}  // namespace

at::Tensor allocate(c10::SymIntArrayRef sizes, at::ScalarType dtype, const at::Tensor& like) {
  return poisoned(at::empty_symint(sizes, like.options().dtype(dtype)));
}

at::Tensor allocate_like(const at::Tensor& like) {
  return poisoned(at::empty_like(like));
}

at::Tensor allocate_like(const at::Tensor& like, at::ScalarType dtype) {
  return poisoned(at::empty_like(like, like.options().dtype(dtype)));
}

bool poison_allocations(bool on) {
  return poison.exchange(on);
}

}  // namespace aspis
