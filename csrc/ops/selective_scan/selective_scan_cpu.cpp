// CPU: tensors -> views of float or double -> kernels of this processor, threaded over sequences
// and blocks of channels. Strides are passed on, so only half types are copied.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "core/alloc.h"
#include "core/dispatch.h"
#include "ops/documents.h"
#include "ops/selective_scan/selective_scan.h"
#include "ops/selective_scan/selective_scan_forward.h"

namespace aspis::ops {
namespace {

using at::Tensor;
using OptTensor = std::optional<Tensor>;

// One row of scratch per thread.
template <typename T>
class ThreadScratch {
 public:
  ThreadScratch(int64_t states, const Tensor& like)
      : size_(selective_scan_table<T>().scratch(states)),
        memory_(allocate({at::get_num_threads(), size_}, c10::CppTypeToScalarType<T>::value, like)),
        base_(memory_.data_ptr<T>()) {}
  T* get() const { return base_ + at::get_thread_num() * size_; }

 private:
  int64_t size_;
  Tensor memory_;  // (threads, elements)
  T* base_;
};

// `out` itself if it has the compute type, else a fresh tensor of that type to be copied into it.
Tensor computed(const Tensor& out, at::ScalarType type) {
  if (!out.defined() || out.scalar_type() == type) return out;
  return allocate(out.sym_sizes(), type, out);
}

// Positions that belong to no token keep these zeros.
void zero_padding(const ScanWalk& walk, std::initializer_list<Tensor> tensors) {
  if (!walk.has_padding) return;
  for (const Tensor& tensor : tensors) {
    if (tensor.defined()) tensor.zero_();
  }
}

}  // namespace

void run_scan_forward(const ScanTensors& tensors, const ScanWalk& walk, const Tensor& y,
                      const Tensor& last, const Tensor& states) {
  const Tensor yc = computed(y, tensors.x.scalar_type());
  zero_padding(walk, {yc});
  dispatch_float_double("selective_scan", tensors.x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const ScanInputs<T> in = scan_inputs<T>(tensors);
    const ScanForward<T> out{scan_view<T>(yc), scan_state_view<T>(last),
                             states.defined() ? states.data_ptr<T>() : nullptr};
    const int64_t count = static_cast<int64_t>(walk.sequences.size());
    const int64_t blocks = in.sizes.channels ? in.sizes.groups * in.sizes.blocks_per_group : 0;
    const ThreadScratch<T> scratch(in.sizes.states, yc);
    // Few tokens are not worth a second thread.
    const int64_t tokens = static_cast<int64_t>(walk.positions.size());
    const int64_t work = tokens * kScanChannelBlock * in.sizes.states / std::max<int64_t>(1, count);
    at::parallel_for(0, blocks * count, 1 + 32768 / (1 + work), [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        selective_scan_table<T>().fwd(in, out, walk.sequences[unit % count], unit / count,
                                      scratch.get());
      }
    });
  });
  if (!yc.is_same(y)) y.copy_(yc);
}

namespace {

SelectiveScanForward fwd_cpu(const Tensor& x, const Tensor& delta, const Tensor& A, const Tensor& B,
                             const Tensor& C, const OptTensor& D, const OptTensor& z,
                             const OptTensor& delta_bias, bool delta_softplus,
                             const OptTensor& initial_state, const OptTensor& seq_idx,
                             const OptTensor& cu_seqlens, bool reverse, bool return_last_state,
                             bool save_for_backward) {
  const SelectiveScanArgs args{
      x,       delta,      A,      B, C, D, z, delta_bias, delta_softplus, initial_state,
      seq_idx, cu_seqlens, reverse};
  check_selective_scan(args);
  const ScanWalk walk = walk_documents(args);
  const auto type = compute_type(x.scalar_type());
  const int64_t d = x.size(2), n = A.size(1);
  const Tensor y = allocate_like(x);  // (b, l, d)
  Tensor last, states;
  if (return_last_state) last = allocate({state_count(x, cu_seqlens), d, n}, type, x);
  if (save_for_backward) states = allocate({x.size(0), x.size(1) / kScanSaveEvery, n, d}, type, x);
  ScanTensors tensors = scan_tensors(args, type);
  tensors.initial = initial_state.value_or(Tensor());
  run_scan_forward(tensors, walk, y, last, states);
  const Tensor none = allocate({0}, type, x);
  return {y, last.defined() ? last : none, states.defined() ? states : allocate({0}, type, x)};
}

// Gradients as the kernels write them: of the compute type, dB and dC summed over channels.
struct Gradients {
  Tensor dx, ddelta, dz;  // (b, l, d)
  Tensor dB, dC;          // (b, l, g, n)
  Tensor dinitial;        // (b | docs, d, n)
  Tensor parameters;      // (slots, n + 2, d): dA transposed, dD, ddelta_bias
};

template <typename T>
void run_backward(const ScanTensors& tensors, const ScanWalk& walk, const Tensor& dy,
                  const Tensor& dlast, const Tensor& states, const Gradients& grads) {
  const ScanInputs<T> in = scan_inputs<T>(tensors);
  const auto& kernels = selective_scan_table<T>();
  const auto type = tensors.x.scalar_type();
  const int64_t d = in.sizes.channels, n = in.sizes.states;
  const int64_t blocks = d ? in.sizes.groups * in.sizes.blocks_per_group : 0;
  const auto waves = plan_waves(walk);
  int64_t wave_tokens = 0;
  for (const ScanWave& wave : waves) wave_tokens = std::max(wave_tokens, wave.tokens);
  const Tensor partial = allocate({2, blocks, wave_tokens, n}, type, tensors.x);
  const Tensor carry = allocate({walk.carries, n, d}, type, tensors.x);
  const ThreadScratch<T> scratch(n, tensors.x);
  ScanBackward<T> out{scan_view<const T>(dy),
                      scan_state_view<const T>(dlast),
                      states.const_data_ptr<T>(),
                      scan_view<T>(grads.dx),
                      scan_view<T>(grads.ddelta),
                      scan_view<T>(grads.dz),
                      scan_state_view<T>(grads.dinitial),
                      carry.data_ptr<T>(),
                      partial.data_ptr<T>(),
                      partial.data_ptr<T>() + blocks * wave_tokens * n,
                      wave_tokens};
  const auto dB = scan_group_view<T>(grads.dB), dC = scan_group_view<T>(grads.dC);
  T* parameters = grads.parameters.data_ptr<T>();
  for (const ScanWave& wave : waves) {
    const int64_t slots = static_cast<int64_t>(wave.slots.size());
    at::parallel_for(0, blocks * slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t slot = unit % slots;
        for (const ScanTask& task : wave.slots[slot]) {
          kernels.bwd(in, out, walk.sequences[task.sequence], task, unit / slots,
                      parameters + slot * (n + 2) * d, scratch.get());
        }
      }
    });
    if (blocks == 0) continue;
    at::parallel_for(0, slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        for (const ScanTask& task : wave.slots[slot]) {
          kernels.reduce(in.sizes, out, walk.sequences[task.sequence], task, dB, dC);
        }
      }
    });
  }
  // The slots in order; one after the other, so that the sum is the same for any number of threads.
  for (int64_t slot = 1; slot < kScanWaveSlots; ++slot) {
    const T* from = parameters + slot * (n + 2) * d;
    for (int64_t i = 0; i < (n + 2) * d; ++i) parameters[i] += from[i];
  }
}

SelectiveScanGradients bwd_cpu(const OptTensor& dy, const OptTensor& dlast_state, const Tensor& x,
                               const Tensor& delta, const Tensor& A, const Tensor& B,
                               const Tensor& C, const OptTensor& D, const OptTensor& z,
                               const OptTensor& delta_bias, bool delta_softplus,
                               const OptTensor& initial_state, const OptTensor& seq_idx,
                               const OptTensor& cu_seqlens, bool reverse, const Tensor& states) {
  const SelectiveScanArgs args{
      x,       delta,      A,      B, C, D, z, delta_bias, delta_softplus, initial_state,
      seq_idx, cu_seqlens, reverse};
  check_selective_scan(args);
  const ScanWalk walk = walk_documents(args);
  const auto type = compute_type(x.scalar_type());
  const int64_t n = A.size(1);
  const auto out = allocate_gradients(args);
  auto [dx, ddelta, dA, dB, dC, dD, dz, dbias, dinitial] = out;
  ScanTensors tensors = scan_tensors(args, type);
  tensors.initial = initial_state.value_or(Tensor());
  const Gradients grads{computed(dx, type),
                        computed(ddelta, type),
                        z ? computed(dz, type) : Tensor(),
                        computed(dB, type),
                        computed(dC, type),
                        initial_state ? dinitial : Tensor(),
                        allocate({kScanWaveSlots, n + 2, x.size(2)}, type, x).zero_()};
  zero_padding(walk, {grads.dx, grads.ddelta, grads.dz, grads.dB, grads.dC});
  if (x.size(2) == 0) {  // no channels: nothing adds to these
    grads.dB.zero_();
    grads.dC.zero_();
  }
  const Tensor dyc = dy ? dy->to(type) : Tensor(), dlast = dlast_state.value_or(Tensor());
  dispatch_float_double("selective_scan", type, [&](auto tag) {
    run_backward<typename decltype(tag)::type>(tensors, walk, dyc, dlast, states, grads);
  });
  const auto finish = [](const Tensor& result, const Tensor& computed) {
    if (computed.defined() && !result.is_same(computed)) result.copy_(computed);
  };
  finish(dx, grads.dx);
  finish(ddelta, grads.ddelta);
  finish(dB, grads.dB);
  finish(dC, grads.dC);
  if (z) finish(dz, grads.dz);
  const Tensor total = grads.parameters.select(0, 0);  // (n + 2, d)
  dA.copy_(total.narrow(0, 0, n).t());
  if (D) dD.copy_(total.select(0, n));
  if (delta_bias) dbias.copy_(total.select(0, n + 1));
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_selective_scan_fwd", fwd_cpu);
  m.impl("_selective_scan_bwd", bwd_cpu);
}

}  // namespace aspis::ops
