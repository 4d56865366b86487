// Decode step on the CPU: the forward kernel with rows as sequences and slots as states.
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>

#include "core/alloc.h"
#include "core/dispatch.h"
#include "ops/selective_scan/selective_scan.h"
#include "ops/selective_scan/selective_scan_forward.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptTensor = std::optional<Tensor>;
using Slots = std::vector<int64_t>;

// The slots of each row; negative ones become -1. Without the argument: row i is slot i.
Slots read_slots(const char* arg, const OptTensor& tensor, int64_t rows, int64_t slots) {
  Slots out(rows);
  std::iota(out.begin(), out.end(), 0);
  if (!tensor) return out;
  const Tensor values = tensor->contiguous();
  const int32_t* p = values.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < rows; ++i) {
    TORCH_CHECK(p[i] < slots, "selective_scan_step: ", arg, " must lie below the ", slots,
                " slots of state, got ", p[i], " at row ", i);
    out[i] = std::max<int64_t>(p[i], -1);
  }
  return out;
}

// Refuses two rows that write one slot. True if some row writes what another one reads.
bool check_writes(const Slots& src, const Slots& dst, int64_t slots) {
  Slots writer(slots, -1);
  for (size_t i = 0; i < src.size(); ++i) {
    if (src[i] < 0 || dst[i] < 0) continue;
    TORCH_CHECK(writer[dst[i]] < 0, "selective_scan_step: dst_slots must differ, got slot ", dst[i],
                " for rows ", writer[dst[i]], " and ", i);
    writer[dst[i]] = static_cast<int64_t>(i);
  }
  for (size_t i = 0; i < src.size(); ++i) {
    if (src[i] >= 0 && writer[src[i]] >= 0 && writer[src[i]] != static_cast<int64_t>(i))
      return true;
  }
  return false;
}

Tensor step_cpu(Tensor& state, const Tensor& x, const Tensor& delta, const Tensor& A,
                const Tensor& B, const Tensor& C, const OptTensor& D, const OptTensor& z,
                const OptTensor& delta_bias, bool delta_softplus, const OptTensor& src_slots,
                const OptTensor& dst_slots) {
  const SelectiveScanStepArgs args{state, x,          delta,          A,         B,        C, D,
                                   z,     delta_bias, delta_softplus, src_slots, dst_slots};
  check_selective_scan_step(args);
  at::assert_no_internal_overlap(state);
  const int64_t rows = x.size(0), slots = state.size(0);
  const Slots src = read_slots("src_slots", src_slots, rows, slots);
  const Slots dst = dst_slots ? read_slots("dst_slots", dst_slots, rows, slots) : src;
  const bool crossing = check_writes(src, dst, slots);
  const auto type = compute_type(x.scalar_type());
  ScanTensors tensors = scan_tensors(args, type);
  const Tensor y = allocate_like(x);  // (b, t, d)
  if (state.scalar_type() == type && !crossing) {
    tensors.initial = state;
    run_scan_forward(tensors, walk_rows(x.size(1), src, dst), y, state, Tensor());
    return y;
  }
  // Gathered copies of the slots, written back when every row has been read; rounded once.
  Slots from, to, written;
  Slots local(rows, -1);
  for (int64_t i = 0; i < rows; ++i) {
    if (src[i] < 0) continue;
    local[i] = static_cast<int64_t>(from.size());
    if (dst[i] >= 0) {
      to.push_back(dst[i]);
      written.push_back(local[i]);
    }
    from.push_back(src[i]);
  }
  const Tensor copies = at::index_select(state, 0, at::tensor(from)).to(type);  // (live rows, d, n)
  tensors.initial = copies;
  run_scan_forward(tensors, walk_rows(x.size(1), local, local), y, copies, Tensor());
  state.index_copy_(0, at::tensor(to),
                    at::index_select(copies, 0, at::tensor(written)).to(state.scalar_type()));
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("selective_scan_step", step_cpu);
}

}  // namespace aspis::ops
