// Decode on the CPU: threaded over (row, head). A float state of float inputs is updated where it
// lies; any other is carried in float (double) for the length of the call and rounded once.
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <unordered_map>
#include <vector>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/ssd/calls.h"
#include "ops/ssd/ssd_kernel.h"

namespace aspis::ops {
namespace {

using at::Tensor;

struct Slots {
  std::vector<int64_t> src, dst;  // per row; negative: none
  bool crossed = false;           // a row reads what another row writes
};

std::vector<int64_t> read_slots(const char* arg, const OptionalTensor& given, int64_t b,
                                int64_t slots) {
  std::vector<int64_t> out(b);
  if (!given) {
    for (int64_t i = 0; i < b; ++i) out[i] = i;
    return out;
  }
  const Tensor values = given->contiguous();
  for (int64_t i = 0; i < b; ++i) {
    out[i] = values.const_data_ptr<int32_t>()[i];
    TORCH_CHECK(out[i] < slots, "ssd_step: ", arg, " must lie below slots=", slots,
                " (negative = none), got ", out[i], " at row ", i);
  }
  return out;
}

Slots read_slots(const SsdStepArgs& args) {
  const int64_t b = args.x.size(0), count = args.state.size(0);
  Slots slots;
  slots.src = read_slots("src_slots", args.src_slots, b, count);
  slots.dst = args.dst_slots ? read_slots("dst_slots", args.dst_slots, b, count) : slots.src;
  std::unordered_map<int64_t, int64_t> writer;
  for (int64_t i = 0; i < b; ++i) {
    if (slots.src[i] < 0 || slots.dst[i] < 0) {
      slots.dst[i] = -1;
      continue;
    }
    TORCH_CHECK(writer.emplace(slots.dst[i], i).second, "ssd_step: two rows write slot ",
                slots.dst[i], " (rows ", writer[slots.dst[i]], " and ", i,
                "); each slot may be written once per call");
  }
  for (int64_t i = 0; i < b; ++i) {
    const auto found = writer.find(slots.src[i]);
    if (found != writer.end() && found->second != i) slots.crossed = true;
  }
  return slots;
}

template <typename F>
void dispatch_state(at::ScalarType type, F&& body) {
  if (type == at::kDouble) return body(TypeTag<double>{});
  if (type == at::kFloat) return body(TypeTag<float>{});
  if (type == at::kBFloat16) return body(TypeTag<c10::BFloat16>{});
  return body(TypeTag<c10::Half>{});
}

// One (p, n) block of a state tensor (slots, h, p, n), any strides, to or from dense memory.
template <typename T>
void read_state(const Tensor& state, int64_t slot, int64_t head, T* to) {
  dispatch_state(state.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    const S* from = state.const_data_ptr<S>() + slot * state.stride(0) + head * state.stride(1);
    for (int64_t i = 0; i < state.size(2); ++i) {
      for (int64_t k = 0; k < state.size(3); ++k) {
        *to++ = static_cast<T>(from[i * state.stride(2) + k * state.stride(3)]);
      }
    }
  });
}
template <typename T>
void write_state(const T* from, const Tensor& state, int64_t slot, int64_t head) {
  dispatch_state(state.scalar_type(), [&](auto tag) {
    using S = typename decltype(tag)::type;
    S* to = state.data_ptr<S>() + slot * state.stride(0) + head * state.stride(1);
    for (int64_t i = 0; i < state.size(2); ++i) {
      for (int64_t k = 0; k < state.size(3); ++k) {
        to[i * state.stride(2) + k * state.stride(3)] = static_cast<S>(*from++);
      }
    }
  });
}

// dt and exp(dt A), (b, h, t).
template <typename T>
void step_sizes(const SsdStepArgs& args, T* dt, T* decay) {
  const Tensor raw = args.dt.to(compute_type(args.x.scalar_type())).contiguous();  // (b, t, h)
  const Tensor A = args.A.to(at::kDouble).contiguous();                            // (h)
  const Tensor bias =
      args.dt_bias ? args.dt_bias->to(raw.scalar_type()).contiguous() : Tensor();  // (h)
  const int64_t b = raw.size(0), t = raw.size(1), h = raw.size(2);
  for (int64_t i = 0; i < b * t * h; ++i) {
    const int64_t row = i / (t * h), step = i / h % t, head = i % h;
    T v = raw.const_data_ptr<T>()[i];
    if (bias.defined()) v += bias.const_data_ptr<T>()[head];
    if (args.dt_softplus)
      v = (v > 0 ? v : T(0)) + static_cast<T>(std::log1p(std::exp(-std::abs(double(v)))));
    if (args.dt_min && v < static_cast<T>(*args.dt_min)) v = static_cast<T>(*args.dt_min);
    if (args.dt_max && v > static_cast<T>(*args.dt_max)) v = static_cast<T>(*args.dt_max);
    const int64_t at = (row * h + head) * t + step;
    dt[at] = v;
    decay[at] = static_cast<T>(std::exp(v * A.const_data_ptr<double>()[head]));
  }
}

template <typename T>
Tensor step(const SsdStepArgs& args) {
  const auto type = compute_type(args.x.scalar_type());
  const Slots slots = read_slots(args);
  const int64_t b = args.x.size(0), t = args.x.size(1), h = args.x.size(2), p = args.x.size(3),
                n = args.B.size(3), per_group = h / args.B.size(2);
  const Tensor x = args.x.to(type).contiguous(), B = args.B.to(type).contiguous(),
               C = args.C.to(type).contiguous();
  const Tensor z = args.z ? args.z->to(type).contiguous() : Tensor();
  Tensor D;
  if (args.D) {
    const Tensor given = args.D->dim() == 1 ? args.D->unsqueeze(-1) : *args.D;
    D = given.to(type).expand({h, p}).contiguous();  // (h, p)
  }
  const Tensor y = allocate({b, t, h, p}, type, args.x);
  const Tensor dt = allocate({b, h, t}, type, args.x), decay = allocate({b, h, t}, type, args.x);
  step_sizes<T>(args, dt.data_ptr<T>(), decay.data_ptr<T>());
  const Tensor source = slots.crossed ? args.state.clone() : args.state;
  const bool dense =
      args.state.scalar_type() == type && args.state.stride(3) == 1 && args.state.stride(2) == n;
  const auto& kernels = cpu::select(avx512::ssd_step_kernels<T>(), avx2::ssd_step_kernels<T>(),
                                    generic::ssd_step_kernels<T>());
  at::parallel_for(0, b * h, 1, [&](int64_t begin, int64_t end) {
    const Tensor scratch = allocate({p, n}, type, args.x);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / h, head = i % h, src = slots.src[row], dst = slots.dst[row];
      if (src < 0) {
        for (int64_t step = 0; step < t; ++step) y[row][step][head].zero_();
        continue;
      }
      const bool in_place = dense && dst == src && !slots.crossed;
      SsdStep<T> work;
      work.p = p;
      work.n = n;
      work.steps = t;
      work.state = scratch.data_ptr<T>();
      if (in_place) {
        work.state =
            args.state.data_ptr<T>() + dst * args.state.stride(0) + head * args.state.stride(1);
      } else {
        read_state(source, src, head, work.state);
      }
      work.decay = decay.const_data_ptr<T>() + i * t;
      work.dt = dt.const_data_ptr<T>() + i * t;
      const int64_t at = (row * t * h + head) * p;
      work.x = {x.const_data_ptr<T>() + at, h * p, 0};
      if (z.defined()) work.z = {z.const_data_ptr<T>() + at, h * p, 0};
      const int64_t group_at = row * B.stride(0) + head / per_group * B.stride(2);
      work.B = {B.const_data_ptr<T>() + group_at, B.stride(1), 0};
      work.C = {C.const_data_ptr<T>() + group_at, C.stride(1), 0};
      if (D.defined()) work.D = D.const_data_ptr<T>() + head * p;
      work.y = {y.data_ptr<T>() + at, h * p, 0};
      kernels.run(work);
      if (!in_place && dst >= 0) write_state(work.state, args.state, dst, head);
    }
  });
  return y;
}

Tensor ssd_step_cpu(const SsdStepArgs& args) {
  check_ssd_step(args);
  at::assert_no_internal_overlap(args.state);
  Tensor y = allocate_like(args.x);  // (b, t, h, p)
  dispatch_float_double("ssd_step", compute_type(args.x.scalar_type()),
                        [&](auto tag) { y.copy_(step<typename decltype(tag)::type>(args)); });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("ssd_step", SpreadStep<ssd_step_cpu>::call);
}

}  // namespace aspis::ops
