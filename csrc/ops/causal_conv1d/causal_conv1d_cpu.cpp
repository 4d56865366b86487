// CPU: tensors -> tables of rows (pointers to d adjacent float or double channels) -> kernel of
// this processor, threaded over stretches of time and blocks of channels.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "core/alloc.h"
#include "core/cpu/isa.h"
#include "core/dispatch.h"
#include "ops/causal_conv1d/causal_conv1d_kernel.h"
#include "ops/causal_conv1d/operators.h"
#include "ops/documents.h"

namespace aspis::ops {
namespace {

using at::Tensor;

constexpr const char* kOp = "causal_conv1d";

// Channels and tokens in one unit of work. Constants, so that no sum depends on the number of
// threads.
constexpr int64_t kChannelBlock = 512;
constexpr int64_t kUnitTokens = 128;
// Rows that a kernel call walks through: 2 x 32 rows of a block (three tensors in backward) stay in
// a second level cache.
constexpr int64_t kChunkRows = 32;

template <typename T>
const CausalConv1dKernels<T>& kernels() {
  return cpu::select(avx512::causal_conv1d_kernels<T>(), avx2::causal_conv1d_kernels<T>(),
                     generic::causal_conv1d_kernels<T>());
}

// One document as its extended sequence of tokens + w - 1 rows (params.h).
struct Document {
  int64_t row;
  int64_t initial;  // index into the states, -1 without one
  int64_t last;     // index into the states, -1 when its end is nobody's last state
  int64_t offset;   // of its extended sequence in the tables
  int64_t tokens;
};

// A stretch [begin, end) of a document: outputs in forward, rows of the extended sequence in
// backward.
struct Chunk {
  int64_t document;
  int64_t begin;
  int64_t end;
};

struct Plan {
  std::vector<Document> documents;
  std::vector<int64_t>
      positions;  // (rows) token of each row of the extended sequences; -1 before a start
  bool has_padding = false;
  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
};

Plan make_plan(const CausalConv1dArgs& args) {
  const int64_t before = args.weight.size(1) - 1;
  const Documents listed = list_documents(kOp, args.x.size(0), args.x.size(1), args.seq_idx,
                                          args.cu_seqlens, args.reverse);
  Plan plan;
  plan.has_padding = listed.has_padding;
  const auto open = [&](int64_t row, int64_t initial) {
    plan.documents.push_back({row, initial, -1, plan.rows(), 0});
    plan.positions.insert(plan.positions.end(), static_cast<size_t>(before), -1);
  };
  for (const Sequence& sequence : listed.sequences) {
    open(sequence.row, sequence.state);
    for (const Run& run : sequence.runs) {
      if (run.starts_document && plan.documents.back().tokens > 0) open(sequence.row, -1);
      for (int64_t i = 0; i < run.end - run.begin; ++i) {
        plan.positions.push_back(args.reverse ? run.end - 1 - i : run.begin + i);
      }
      plan.documents.back().tokens += run.end - run.begin;
    }
    plan.documents.back().last = sequence.state;
  }
  return plan;
}

// Cuts documents into chunks, and the list of chunks into units of about kUnitTokens: unit u is
// [units[u], units[u + 1]).
struct Work {
  std::vector<Chunk> chunks;
  std::vector<int64_t> units{0};
  int64_t longest = 0;
  int64_t unit_count() const { return static_cast<int64_t>(units.size()) - 1; }
};

Work cut(const Plan& plan, int64_t extra_rows, int64_t chunk_rows) {
  Work work;
  int64_t in_unit = 0;
  for (size_t d = 0; d < plan.documents.size(); ++d) {
    const int64_t rows = plan.documents[d].tokens + extra_rows;
    for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
      const int64_t end = std::min(rows, begin + chunk_rows);
      work.chunks.push_back({static_cast<int64_t>(d), begin, end});
      work.longest = std::max(work.longest, end - begin);
      in_unit += end - begin;
      if (in_unit >= kUnitTokens) {
        work.units.push_back(static_cast<int64_t>(work.chunks.size()));
        in_unit = 0;
      }
    }
  }
  if (in_unit > 0) work.units.push_back(static_cast<int64_t>(work.chunks.size()));
  return work;
}

// Copies (b, l, d) row by row of the batch: ATen turns matrices over block by block, which it does
// not do for three dimensions. The whole op takes 0.4 times as long on (b, d, l) views for it.
void copy_batch(const Tensor& to, const Tensor& from) {
  for (int64_t row = 0; row < to.size(0); ++row) {
    const Tensor target = to.select(0, row), source = from.select(0, row);  // (l, d)
    if (target.is_contiguous()) {
      target.copy_(source);
    } else {
      target.t().copy_(source.t());
    }
  }
}

// A (b, l, d) operand whose channels are adjacent, in the compute type: a view where possible.
Tensor with_adjacent_channels(const Tensor& t, at::ScalarType type) {
  const Tensor converted = t.to(type);
  if (converted.stride(2) == 1 || t.size(2) <= 1) return converted;
  const Tensor copy = allocate(t.sym_sizes(), type, t);
  copy_batch(copy, converted);
  return copy;
}

// The tensor a kernel writes for `out`: `out` itself where it can.
Tensor writable(const Tensor& out, at::ScalarType type) {
  if (out.scalar_type() == type && (out.stride(2) == 1 || out.size(2) <= 1)) return out;
  return allocate(out.sym_sizes(), type, out);
}

// States (s, d, w - 1) with the channels adjacent: (s, w - 1, d), a copy.
Tensor state_rows(const OptionalTensor& state, at::ScalarType type) {
  return state ? state->to(type).transpose(1, 2).contiguous() : Tensor();
}

// Pointers to the rows of a (b, l, d) tensor in the order of the plan; `before(document, j)` gives
// the w - 1 rows ahead of a document.
template <typename P, typename Before>
std::vector<P> row_table(const Plan& plan, const Tensor& t, P base, const Before& before) {
  std::vector<P> rows(plan.positions.size());
  const int64_t stride_b = t.stride(0), stride_l = t.stride(1);
  for (size_t d = 0; d < plan.documents.size(); ++d) {
    const Document& document = plan.documents[d];
    const int64_t end = d + 1 < plan.documents.size() ? plan.documents[d + 1].offset : plan.rows();
    P row = base + document.row * stride_b;
    for (int64_t i = document.offset; i < end; ++i) {
      const int64_t position = plan.positions[static_cast<size_t>(i)];
      rows[static_cast<size_t>(i)] =
          position < 0 ? before(document, i - document.offset) : row + position * stride_l;
    }
  }
  return rows;
}

// The window ahead of each document: its initial state, else zeros.
template <typename T>
std::vector<const T*> input_rows(const Plan& plan, const Tensor& x, const Tensor& initial,
                                 const Tensor& zeros, int64_t before) {
  const int64_t d = x.size(2);
  const T* states = initial.defined() ? initial.const_data_ptr<T>() : nullptr;
  const T* zero = zeros.const_data_ptr<T>();
  return row_table(plan, x, x.const_data_ptr<T>(), [=](const Document& document, int64_t j) {
    return states && document.initial >= 0 ? states + (document.initial * before + j) * d : zero;
  });
}

// Runs body(unit, first channel, last channel) over all units and channel blocks.
template <typename F>
void for_each_unit(const Work& work, int64_t channels, const F& body) {
  const int64_t blocks = (channels + kChannelBlock - 1) / kChannelBlock;
  at::parallel_for(0, work.unit_count() * blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % blocks * kChannelBlock;
      body(i / blocks, begin, std::min(channels, begin + kChannelBlock));
    }
  });
}

// What forward and backward share.
struct Operands {
  Tensor x;        // (b, l, d), channels adjacent
  Tensor weight;   // (w, d)
  Tensor bias;     // (d) or undefined
  Tensor initial;  // (s, w - 1, d) or undefined
  Tensor zeros;    // (d)
};

Operands operands(const CausalConv1dArgs& args, at::ScalarType type) {
  return {with_adjacent_channels(args.x, type), args.weight.to(type).t().contiguous(),
          args.bias ? args.bias->to(type).contiguous() : Tensor(),
          state_rows(args.initial_state, type), allocate({args.x.size(2)}, type, args.x).zero_()};
}

template <typename T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.const_data_ptr<T>() : nullptr;
}

template <typename T>
void copy_last_rows(const Plan& plan, const std::vector<const T*>& rows, int64_t before, int64_t d,
                    T* last) {
  for (const Document& document : plan.documents) {
    if (document.last < 0) continue;
    for (int64_t j = 0; j < before; ++j) {
      const T* row = rows[static_cast<size_t>(document.offset + document.tokens + j)];
      std::copy(row, row + d, last + (document.last * before + j) * d);
    }
  }
}

std::tuple<Tensor, Tensor> causal_conv1d_fwd_cpu(
    const Tensor& x, const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
  const CausalConv1dArgs args{x,       weight,     bias,    std::string(activation), initial_state,
                              seq_idx, cu_seqlens, reverse, return_last_state};
  check_causal_conv1d(args);
  const int64_t d = x.size(2), w = weight.size(1), before = w - 1;
  const auto type = compute_type(x.scalar_type());
  const Plan plan = make_plan(args);
  const Operands in = operands(args, type);
  Tensor y = allocate_like(x);  // (b, l, d)
  const Tensor out = writable(y, type);
  if (plan.has_padding) out.zero_();
  const int64_t states = cu_seqlens ? cu_seqlens->size(0) - 1 : x.size(0);
  Tensor last;  // (s, w - 1, d)
  if (return_last_state) last = allocate({states, before, d}, type, x);
  dispatch_float_double(kOp, type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto rows = input_rows<T>(plan, in.x, in.initial, in.zeros, before);
    const auto y_rows = row_table(plan, out, out.data_ptr<T>(),
                                  [](const Document&, int64_t) -> T* { return nullptr; });
    const CausalConv1dParams params{d, w, args.activation == "silu"};
    const Work work = cut(plan, 0, kChunkRows);
    for_each_unit(work, d, [&](int64_t unit, int64_t c_begin, int64_t c_end) {
      for (int64_t c = work.units[unit]; c < work.units[unit + 1]; ++c) {
        const Chunk& chunk = work.chunks[c];
        const int64_t at = plan.documents[chunk.document].offset + chunk.begin;
        kernels<T>().fwd(params, rows.data() + at, in.weight.template const_data_ptr<T>(),
                         data_or_null<T>(in.bias), y_rows.data() + at + before,
                         chunk.end - chunk.begin, c_begin, c_end);
      }
    });
    if (return_last_state) copy_last_rows(plan, rows, before, d, last.data_ptr<T>());
  });
  if (!out.is_same(y)) copy_batch(y, out);
  if (!return_last_state) return {y, allocate({0}, x.scalar_type(), x)};
  Tensor last_state = allocate({states, d, before}, x.scalar_type(), x);  // (s, d, w - 1)
  last_state.copy_(last.transpose(1, 2));
  return {y, last_state};
}

// Sum over the units, in their order. partial (units, columns) -> its first row.
template <typename T>
void add_up(T* partial, int64_t units, int64_t columns) {
  at::parallel_for(0, columns, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t unit = 1; unit < units; ++unit) {
      const T* row = partial + unit * columns;
      for (int64_t c = begin; c < end; ++c) partial[c] += row[c];
    }
  });
}

template <typename T>
void run_backward(const CausalConv1dParams& params, const Plan& plan, const Work& work,
                  const Operands& in, const Tensor& dy, const Tensor& dlast, const Tensor& dx,
                  const Tensor& dinitial, const Tensor& partial) {
  const int64_t d = params.channels, before = params.width - 1;
  const auto rows = input_rows<T>(plan, in.x, in.initial, in.zeros, before);
  std::vector<const T*> dy_rows;
  if (dy.defined()) {
    dy_rows = row_table(plan, dy, dy.const_data_ptr<T>(),
                        [](const Document&, int64_t) -> const T* { return nullptr; });
  }
  T* dstates = dinitial.defined() ? dinitial.data_ptr<T>() : nullptr;
  const auto dx_rows =
      row_table(plan, dx, dx.data_ptr<T>(), [=](const Document& document, int64_t j) -> T* {
        return dstates && document.initial >= 0 ? dstates + (document.initial * before + j) * d
                                                : nullptr;
      });
  for_each_unit(work, d, [&](int64_t unit, int64_t c_begin, int64_t c_end) {
    const Tensor scratch =
        allocate({(work.longest + before) * kScratchLanes<T>}, in.x.scalar_type(), in.x);
    T* sums = partial.data_ptr<T>() + unit * (params.width + 1) * d;
    for (int64_t c = work.units[unit]; c < work.units[unit + 1]; ++c) {
      const Chunk& chunk = work.chunks[c];
      const Document& document = plan.documents[chunk.document];
      const CausalConv1dBwdChunk<T> stretch{
          rows.data() + document.offset,
          dy.defined() ? dy_rows.data() + document.offset + before : nullptr,
          dlast.defined() && document.last >= 0
              ? dlast.const_data_ptr<T>() + document.last * before * d
              : nullptr,
          dx_rows.data() + document.offset,
          document.tokens,
          chunk.begin,
          chunk.end};
      kernels<T>().bwd(params, stretch, in.weight.const_data_ptr<T>(), data_or_null<T>(in.bias),
                       sums, scratch.data_ptr<T>(), c_begin, c_end);
    }
  });
  add_up(partial.data_ptr<T>(), work.unit_count(), (params.width + 1) * d);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv1d_bwd_cpu(
    const OptionalTensor& dy, const OptionalTensor& dlast_state, const Tensor& x,
    const Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse) {
  const CausalConv1dArgs args{
      x, weight, bias, std::string(activation), initial_state, seq_idx, cu_seqlens, reverse, false};
  check_causal_conv1d_grads(dy, dlast_state, args);
  const int64_t d = x.size(2), w = weight.size(1), before = w - 1;
  const auto type = compute_type(x.scalar_type());
  const Plan plan = make_plan(args);
  const Work work = cut(plan, before, std::max(kChunkRows, 4 * before));
  const Operands in = operands(args, type);
  Tensor dx = allocate_like(x);  // (b, l, d)
  const Tensor dx_out = writable(dx, type);
  if (plan.has_padding) dx_out.zero_();
  Tensor dinitial;  // (s, w - 1, d)
  if (in.initial.defined()) dinitial = allocate(in.initial.sym_sizes(), type, x);
  // One row of sums per unit, and one more so that there is always a first.
  const Tensor partial =  // (units, w + 1, d)
      allocate({std::max<int64_t>(work.unit_count(), 1), w + 1, d}, type, x).zero_();
  dispatch_float_double(kOp, type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    run_backward<T>({d, w, args.activation == "silu"}, plan, work, in,
                    dy ? with_adjacent_channels(*dy, type) : Tensor(),
                    state_rows(dlast_state, type), dx_out, dinitial, partial);
  });
  if (!dx_out.is_same(dx)) copy_batch(dx, dx_out);
  const Tensor sums = partial.select(0, 0);  // (w + 1, d)
  Tensor dweight = allocate_like(weight);    // (d, w)
  dweight.copy_(sums.narrow(0, 0, w).t());
  Tensor dbias = bias ? allocate_like(*bias) : allocate({0}, weight.scalar_type(), x);  // (d)
  if (bias) dbias.copy_(sums.select(0, w));
  Tensor dstate = allocate({0}, x.scalar_type(), x);  // (s, d, w - 1)
  if (initial_state) {
    dstate = allocate_like(*initial_state);
    dstate.copy_(dinitial.transpose(1, 2));
  }
  return {dx, dweight, dbias, dstate};
}

}  // namespace

TORCH_LIBRARY_IMPL(aspis, CPU, m) {
  m.impl("_causal_conv1d_fwd", causal_conv1d_fwd_cpu);
  m.impl("_causal_conv1d_bwd", causal_conv1d_bwd_cpu);
}

}  // namespace aspis::ops
