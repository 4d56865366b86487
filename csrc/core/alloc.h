#pragma once
// The one place where ops allocate. Tests can have every fresh tensor filled with NaN, so that an
// element nobody writes shows.

#include <ATen/core/Tensor.h>

namespace aspis {

// Uninitialised, contiguous, on `like`'s device.
at::Tensor allocate(c10::SymIntArrayRef sizes, at::ScalarType dtype, const at::Tensor& like);

// Uninitialised, with `like`'s sizes, stride order and dtype (or another dtype).
at::Tensor allocate_like(const at::Tensor& like);
at::Tensor allocate_like(const at::Tensor& like, at::ScalarType dtype);

// Fill fresh tensors with NaN (integers with the largest value) from now on; returns the former
// setting.
bool poison_allocations(bool on);

}  // namespace aspis
