// CPU: tensors -> float or double with a dense last dimension -> kernel of this processor, threaded
// over (sequence, block of heads).
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/documents.h"
#include "ops/ssd/calls.h"
#include "ops/ssd/ssd_kernel.h"

namespace aspis::ops {
namespace {

using at::Tensor;

// Where the sequences go: tokens of all sequences in walking order, and their chunks.
struct Walk {
  struct Path {
    int64_t row, state, first_chunk, chunk_count;
  };
  std::vector<int64_t> tokens;
  std::vector<SsdChunk> chunks;
  std::vector<Path> paths;
  bool has_padding = false;
};

// Chunks end at document borders and after kSsdChunk tokens. Slots of saved states count up per
// row; a row never needs more than l / kSsdChunk, because a document's first chunk needs none.
Walk plan_walk(const SsdArgs& args) {
  const int64_t b = args.x.size(0), l = args.x.size(1);
  const Documents documents =
      list_documents("ssd", b, l, args.seq_idx, args.cu_seqlens, args.reverse);
  Walk walk;
  walk.has_padding = documents.has_padding;
  walk.tokens.reserve(b * l);
  std::vector<int32_t> slots(b, 0);
  for (const Sequence& sequence : documents.sequences) {
    const int64_t first_chunk = walk.chunks.size();
    for (const Run& run : sequence.runs) {
      const bool first = &run == sequence.runs.data();
      if (run.starts_document) {
        const bool initial = first && args.initial_state;
        walk.chunks.push_back(
            {int64_t(walk.tokens.size()), 0, initial ? kSsdInitialState : kSsdNoState});
      }
      for (int64_t i = 0; i < run.end - run.begin; ++i) {
        if (walk.chunks.back().count == kSsdChunk) {
          walk.chunks.push_back({int64_t(walk.tokens.size()), 0, slots[sequence.row]++});
        }
        walk.tokens.push_back(args.reverse ? run.end - 1 - i : run.begin + i);
        ++walk.chunks.back().count;
      }
    }
    walk.paths.push_back(
        {sequence.row, sequence.state, first_chunk, int64_t(walk.chunks.size()) - first_chunk});
  }
  return walk;
}

// Heads in one unit of work: they share the scores of their group. It depends on shapes alone, so
// that the sums over heads do not depend on the number of threads.
struct Units {
  int64_t heads_per_group, block, blocks_per_group, per_path;

  explicit Units(const SsdArgs& args) {
    const int64_t heads = args.x.size(2), groups = args.B.size(2);
    heads_per_group = heads / groups;
    block = std::min(heads_per_group, std::clamp<int64_t>(heads / 8, 1, 4));
    blocks_per_group = block > 0 ? (heads_per_group + block - 1) / block : 0;
    per_path = groups * blocks_per_group;
  }
};

// The inputs as the kernels read them; the tensors keep the memory alive.
struct Inputs {
  at::ScalarType type;
  Tensor x, dt, A, B, C, D, z, dt_bias, initial;

  static Tensor dense(const Tensor& tensor, at::ScalarType type) {
    const Tensor converted = tensor.to(type);
    return converted.stride(-1) == 1 ? converted : converted.contiguous();
  }

  explicit Inputs(const SsdArgs& args) : type(compute_type(args.x.scalar_type())) {
    x = dense(args.x, type);           // (b, l, h, p)
    dt = args.dt.to(type);             // (b, l, h)
    A = args.A.to(type).contiguous();  // (h)
    B = dense(args.B, type);           // (b, l, g, n)
    C = dense(args.C, type);           // (b, l, g, n)
    if (args.D) {
      const Tensor given = args.D->dim() == 1 ? args.D->unsqueeze(-1) : *args.D;
      D = given.to(type).expand({x.size(2), x.size(3)}).contiguous();  // (h, p)
    }
    if (args.z) z = dense(*args.z, type);                                // (b, l, h, p)
    if (args.dt_bias) dt_bias = args.dt_bias->to(type).contiguous();     // (h)
    if (args.initial_state) initial = args.initial_state->contiguous();  // (b | docs, h, p, n)
  }
};

template <typename T>
SsdView<const T> view(const Tensor& tensor, int64_t row) {
  if (!tensor.defined()) return {};
  return {tensor.const_data_ptr<T>() + row * tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}
template <typename T>
SsdView<T> mutable_view(const Tensor& tensor, int64_t row) {
  if (!tensor.defined()) return {};
  return {tensor.data_ptr<T>() + row * tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}
template <typename T>
const T* data(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}
template <typename T>
T* state_at(const Tensor& states, int64_t index) {
  return states.defined() ? states.data_ptr<T>() + index * states.stride(0) : nullptr;
}

template <typename T>
SsdInputs<T> unit_inputs(const SsdArgs& args, const Inputs& in, const Walk& walk,
                         const Walk::Path& path, const Units& units, int64_t unit) {
  SsdInputs<T> out;
  out.heads = in.x.size(2);
  out.p = in.x.size(3);
  out.n = in.B.size(3);
  out.group = unit / units.blocks_per_group;
  const int64_t first = unit % units.blocks_per_group * units.block;
  out.head = out.group * units.heads_per_group + first;
  out.head_count = std::min(units.block, units.heads_per_group - first);
  out.softplus = args.dt_softplus;
  const double infinity = std::numeric_limits<double>::infinity();
  out.dt_min = static_cast<T>(args.dt_min.value_or(-infinity));
  out.dt_max = static_cast<T>(args.dt_max.value_or(infinity));
  out.tokens = walk.tokens.data();
  out.chunks = walk.chunks.data() + path.first_chunk;
  out.chunk_count = path.chunk_count;
  out.x = view<T>(in.x, path.row);
  out.dt = view<T>(in.dt, path.row);
  out.B = view<T>(in.B, path.row);
  out.C = view<T>(in.C, path.row);
  out.z = view<T>(in.z, path.row);
  out.A = data<T>(in.A);
  out.D = data<T>(in.D);
  out.dt_bias = data<T>(in.dt_bias);
  if (in.initial.defined()) out.initial = data<T>(in.initial) + path.state * in.initial.stride(0);
  return out;
}

// An output that kernels can write: the tensor itself, or a dense one to be copied into it.
class Target {
 public:
  Target() = default;
  Target(Tensor result, at::ScalarType type, bool has_padding) : result_(std::move(result)) {
    written_ = result_;
    const bool writable = result_.scalar_type() == type && result_.stride(-1) == 1;
    if (!writable) written_ = allocate(result_.sym_sizes(), type, result_);
    if (has_padding) written_.zero_();
  }
  const Tensor& written() const { return written_; }
  Tensor finish() const {
    if (!written_.is_same(result_)) result_.copy_(written_);
    return result_;
  }

 private:
  Tensor result_, written_;
};

Tensor absent(const Inputs& in) {
  return allocate({c10::SymInt(0)}, in.type, in.x);
}

template <typename T, typename Kernels, typename Body>
void for_each_unit(const Kernels& kernels, const Inputs& in, const Walk& walk, const Units& units,
                   const Body& body) {
  const int64_t size = kernels.scratch(units.block, in.x.size(3), in.B.size(3));
  at::parallel_for(0, int64_t(walk.paths.size()) * units.per_path, 1,
                   [&](int64_t begin, int64_t end) {
                     const Tensor scratch = allocate({c10::SymInt(size)}, in.type, in.x);
                     for (int64_t i = begin; i < end; ++i) {
                       body(i / units.per_path, i % units.per_path, scratch.data_ptr<T>());
                     }
                   });
}

SsdFwdResult ssd_fwd_cpu(const SsdArgs& args, bool save_for_backward) {
  check_ssd(args);
  const Inputs in(args);
  const Walk walk = plan_walk(args);
  const Units units(args);
  const int64_t b = args.x.size(0), l = args.x.size(1), h = args.x.size(2), p = args.x.size(3),
                n = args.B.size(3);
  const Target y(allocate_like(args.x), in.type, walk.has_padding);  // (b, l, h, p)
  Tensor last_state, states;
  if (args.return_last_state) {
    last_state = allocate({int64_t(walk.paths.size()), h, p, n}, in.type, args.x);
  }
  if (save_for_backward) {
    states = allocate({b, l / kSsdChunk, h, p, n}, in.type, args.x);
    if (args.seq_idx || args.cu_seqlens) states.zero_();  // some slots may stay unused
  }
  dispatch_float_double("ssd", in.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto& kernels =
        cpu::select(avx512::ssd_forward_kernels<T>(), avx2::ssd_forward_kernels<T>(),
                    generic::ssd_forward_kernels<T>());
    for_each_unit<T>(kernels, in, walk, units, [&](int64_t index, int64_t unit, T* scratch) {
      const Walk::Path& path = walk.paths[index];
      SsdForward<T> work;
      work.in = unit_inputs<T>(args, in, walk, path, units, unit);
      work.y = mutable_view<T>(y.written(), path.row);
      work.saved = state_at<T>(states, path.row);
      work.last_state = state_at<T>(last_state, path.state);
      work.scratch = scratch;
      kernels.run(work);
    });
  });
  return {y.finish(), last_state.defined() ? last_state : absent(in),
          states.defined() ? states : absent(in)};
}

// sum over the first dimension of (parts, ...), in order, into part 0.
template <typename T>
Tensor sum_parts(const Tensor& parts) {
  if (parts.size(0) == 1) return parts[0];
  const int64_t count = parts[0].numel(), number = parts.size(0);
  T* to = parts.data_ptr<T>();
  at::parallel_for(0, count, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t part = 1; part < number; ++part) {
      const T* from = to + part * count;
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    }
  });
  return parts[0];
}

// The same in double, for sums over sequences.
template <typename T>
Tensor sum_sequences(const Tensor& parts) {
  const Tensor total = at::zeros(parts.sizes().slice(1), parts.options().dtype(at::kDouble));
  const T* from = parts.const_data_ptr<T>();
  double* to = total.data_ptr<double>();
  for (int64_t part = 0; part < parts.size(0); ++part) {
    for (int64_t i = 0; i < total.numel(); ++i) to[i] += from[part * total.numel() + i];
  }
  return total;
}

template <typename T>
SsdGrads backward(const OptionalTensor& dy, const OptionalTensor& dlast_state, const SsdArgs& args,
                  const Tensor& saved) {
  const Inputs in(args);
  const Walk walk = plan_walk(args);
  const Units units(args);
  const int64_t h = args.x.size(2), p = args.x.size(3), paths = walk.paths.size();
  const Tensor dyc = dy ? Inputs::dense(*dy, in.type) : Tensor();           // (b, l, h, p)
  const Tensor dlast = dlast_state ? dlast_state->contiguous() : Tensor();  // (b | docs, h, p, n)
  const Tensor states = saved.contiguous();                                 // (b, slots, h, p, n)
  const Target dx(allocate_like(args.x), in.type, walk.has_padding);
  const Target dz = args.z ? Target(allocate_like(*args.z), in.type, walk.has_padding) : Target();
  const Target ddt(allocate_like(args.dt), in.type, walk.has_padding);
  // Shares of head blocks (blocks, b, l, g, n), and of sequences.
  std::vector<int64_t> sizes = args.B.sizes().vec();
  sizes.insert(sizes.begin(), std::max<int64_t>(units.blocks_per_group, 1));
  const Tensor dB = allocate(c10::fromIntArrayRefSlow(sizes), in.type, args.x);
  const Tensor dC = allocate(c10::fromIntArrayRefSlow(sizes), in.type, args.x);
  if (walk.has_padding || units.blocks_per_group == 0) {
    dB.zero_();
    dC.zero_();
  }
  const auto wide = args.x.options().dtype(at::kDouble);
  const Tensor dA = at::zeros({paths, h}, wide), ddt_bias = at::zeros({paths, h}, wide);
  const Tensor dD = args.D ? at::zeros({paths, h, p}, wide.dtype(in.type)) : Tensor();
  Tensor dinitial;
  if (args.initial_state) dinitial = allocate(args.initial_state->sym_sizes(), in.type, args.x);

  const auto& kernels =
      cpu::select(avx512::ssd_backward_kernels<T>(), avx2::ssd_backward_kernels<T>(),
                  generic::ssd_backward_kernels<T>());
  for_each_unit<T>(kernels, in, walk, units, [&](int64_t index, int64_t unit, T* scratch) {
    const Walk::Path& path = walk.paths[index];
    const int64_t block = unit % units.blocks_per_group;
    SsdBackward<T> work;
    work.in = unit_inputs<T>(args, in, walk, path, units, unit);
    work.saved = states.const_data_ptr<T>() + path.row * states.stride(0);
    work.dy = view<T>(dyc, path.row);
    work.dlast_state = state_at<T>(dlast, path.state);
    work.dx = mutable_view<T>(dx.written(), path.row);
    work.ddt = mutable_view<T>(ddt.written(), path.row);
    work.dz = mutable_view<T>(dz.written(), path.row);
    work.dB = mutable_view<T>(dB[block], path.row);
    work.dC = mutable_view<T>(dC[block], path.row);
    work.dA = dA.data_ptr<double>() + index * h;
    work.ddt_bias = ddt_bias.data_ptr<double>() + index * h;
    work.dD = state_at<T>(dD, index);
    work.dinitial = state_at<T>(dinitial, path.state);
    work.scratch = scratch;
    kernels.run(work);
  });

  SsdGrads g;
  g.dx = dx.finish();
  g.ddt = ddt.finish();
  g.dA = sum_sequences<double>(dA).to(args.A.scalar_type());
  g.dB = allocate_like(args.B).copy_(sum_parts<T>(dB));
  g.dC = allocate_like(args.C).copy_(sum_parts<T>(dC));
  g.dD = absent(in);
  if (args.D) {
    const Tensor total = sum_sequences<T>(dD);
    g.dD = (args.D->dim() == 1 ? total.sum(1) : total).to(args.D->scalar_type());
  }
  g.dz = args.z ? dz.finish() : absent(in);
  g.ddt_bias =
      args.dt_bias ? sum_sequences<double>(ddt_bias).to(args.dt_bias->scalar_type()) : absent(in);
  g.dinitial_state = args.initial_state ? dinitial : absent(in);
  return g;
}

SsdGrads ssd_bwd_cpu(const OptionalTensor& dy, const OptionalTensor& dlast_state,
                     const SsdArgs& args, const Tensor& states) {
  check_ssd(args);
  return dispatch_float_double("ssd", compute_type(args.x.scalar_type()), [&](auto tag) {
    return backward<typename decltype(tag)::type>(dy, dlast_state, args, states);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_ssd_fwd", SpreadFwd<ssd_fwd_cpu>::call);
  m.impl("_ssd_bwd", SpreadBwd<ssd_bwd_cpu>::call);
}

}  // namespace aspis::ops
