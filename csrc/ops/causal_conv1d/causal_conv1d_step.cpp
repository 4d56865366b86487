// Decode step: schemas, checks, Meta, refusals, autocast.
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/irange.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <unordered_map>

#include "core/alloc.h"
#include "core/check.h"
#include "ops/causal_conv1d/operators.h"
#include "ops/refusals.h"

namespace aspis::ops {

using at::Tensor;

namespace {

constexpr const char* kOp = "causal_conv1d_step";

const auto& step_operator() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("aspis::causal_conv1d_step", "")
                             .typed<CausalConv1dStepSignature>();
  return op;
}

// int32 (b) on the CPU as int64 values; without a tensor row i has slot i.
std::vector<int64_t> slot_values(const OptionalTensor& slots, int64_t b) {
  std::vector<int64_t> values(static_cast<size_t>(b));
  if (!slots) {
    for (const auto i : c10::irange(b)) values[i] = i;
    return values;
  }
  const Tensor host = slots->cpu().contiguous();
  for (const auto i : c10::irange(b)) values[i] = host.const_data_ptr<int32_t>()[i];
  return values;
}

}  // namespace

void check_causal_conv1d_step(const CausalConv1dStepArgs& args) {
  const Tensor& x = args.x;
  check_dim(kOp, "x", x, 3, "(b, t, d)");
  check_floating(kOp, "x", x);
  const c10::SymInt b = x.sym_size(0), d = x.sym_size(2);
  TORCH_CHECK(x.sym_size(1) >= 1, kOp, ": x (b, t, d) needs t >= 1 tokens, got ", shape_string(x));
  check_dim(kOp, "weight", args.weight, 2, "(d, w)");
  const c10::SymInt w = args.weight.sym_size(1);
  check_shape(kOp, "weight", args.weight, {{"d", d}, {"w", w}});
  TORCH_CHECK(w >= 1, kOp, ": weight (d, w) needs w >= 1, got ", shape_string(args.weight));
  check_parameter_dtype(kOp, "weight", args.weight, x.scalar_type());
  check_same_device(kOp, "weight", args.weight, "x", x);
  check_shape(kOp, "bias", args.bias, {{"d", d}});
  check_parameter_dtype(kOp, "bias", args.bias, x.scalar_type());
  check_same_device(kOp, "bias", args.bias, "x", x);
  TORCH_CHECK(args.activation == "none" || args.activation == "silu", kOp,
              ": activation must be \"none\" or \"silu\", got \"", args.activation, "\"");
  check_dim(kOp, "state", args.state, 3, "(slots, d, w-1)");
  const c10::SymInt slots = args.src_slots ? args.state.sym_size(0) : b;
  check_shape(kOp, "state", args.state,
              {{args.src_slots ? "slots" : "b", slots}, {"d", d}, {"w-1", w - 1}});
  check_floating(kOp, "state", args.state);
  check_same_device(kOp, "state", args.state, "x", x);
  for (const auto& [name, tensor] :
       {std::pair{"src_slots", args.src_slots}, std::pair{"dst_slots", args.dst_slots}}) {
    check_shape(kOp, name, tensor, {{"b", b}});
    check_dtype(kOp, name, tensor, at::kInt, "state slots");
    check_same_device(kOp, name, tensor, "x", x);
  }
}

StepSlots list_step_slots(const CausalConv1dStepArgs& args) {
  const int64_t b = args.x.size(0), slots = args.state.size(0);
  const auto src = slot_values(args.src_slots, b);
  const auto dst = args.dst_slots ? slot_values(args.dst_slots, b) : src;
  StepSlots out;
  std::unordered_map<int64_t, int64_t> writer;  // slot -> row
  for (const auto row : c10::irange(b)) {
    TORCH_CHECK(src[row] < slots, kOp, ": src_slots[", row, "] is ", src[row],
                ", but state has slots 0 ... ", slots - 1, " (negative = padding)");
    if (src[row] < 0) continue;
    TORCH_CHECK(dst[row] < slots, kOp, ": dst_slots[", row, "] is ", dst[row],
                ", but state has slots 0 ... ", slots - 1, " (negative = not written)");
    if (dst[row] >= 0) {
      const auto [found, fresh] = writer.emplace(dst[row], row);
      TORCH_CHECK(fresh, kOp, ": rows ", found->second, " and ", row, " both write slot ", dst[row],
                  ": each row needs a slot of its own");
    }
    out.rows.push_back(row);
    out.src.push_back(src[row]);
    out.dst.push_back(std::max<int64_t>(dst[row], -1));
  }
  return out;
}

Tensor causal_conv1d_step(const CausalConv1dStepArgs& args) {
  require_kernel(kOp, step_operator(), args.x);  // inference mode skips the Autograd kernel
  Tensor state = args.state;
  return step_operator().call(state, args.x, args.weight, args.bias, args.activation,
                              args.src_slots, args.dst_slots);
}

namespace {

Tensor causal_conv1d_step_meta(Tensor& state, const Tensor& x, const Tensor& weight,
                               const OptionalTensor& bias, std::string_view activation,
                               const OptionalTensor& src_slots, const OptionalTensor& dst_slots) {
  check_causal_conv1d_step({x, state, weight, bias, std::string(activation), src_slots, dst_slots});
  return allocate_like(x);
}

Tensor causal_conv1d_step_autograd(Tensor& state, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, std::string_view activation,
                                   const OptionalTensor& src_slots,
                                   const OptionalTensor& dst_slots) {
  refuse_functorch(kOp);
  refuse_gradient(kOp, {state, x, weight, bias});
  require_kernel(kOp, step_operator(), x);
  at::AutoDispatchBelowAutograd below;
  return step_operator().call(state, x, weight, bias, activation, src_slots, dst_slots);
}

// A graph that saved the state must notice that it changed. Torch's ready-made fallback counts only
// changed tensors that an op also returns.
Tensor causal_conv1d_step_in_place(Tensor& state, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, std::string_view activation,
                                   const OptionalTensor& src_slots,
                                   const OptionalTensor& dst_slots) {
  Tensor y;  // (b, t, d)
  {
    at::AutoDispatchBelowADInplaceOrView below;
    y = step_operator().call(state, x, weight, bias, activation, src_slots, dst_slots);
  }
  if (!state.is_inference()) torch::autograd::impl::bump_version(state);
  return y;
}

template <at::DeviceType device, c10::DispatchKey key>
Tensor causal_conv1d_step_autocast(Tensor& state, const Tensor& x, const Tensor& weight,
                                   const OptionalTensor& bias, std::string_view activation,
                                   const OptionalTensor& src_slots,
                                   const OptionalTensor& dst_slots) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(key);
  const auto type = at::autocast::get_autocast_dtype(device);
  return step_operator().call(state, at::autocast::cached_cast(type, x, device), weight, bias,
                              activation, src_slots, dst_slots);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(aspis, m) {
  const std::string arguments =
      "(Tensor(a!) state, Tensor x, Tensor weight, Tensor? bias=None, *, "
      "str activation=\"none\", Tensor? src_slots=None, Tensor? dst_slots=None) -> Tensor";
  m.def(("causal_conv1d_step" + arguments).c_str());
  m.def(("causal_conv1d_step_ref" + arguments).c_str());
}

TORCH_LIBRARY_IMPL(aspis, Meta, m) {
  m.impl("causal_conv1d_step", causal_conv1d_step_meta);
}
TORCH_LIBRARY_IMPL(aspis, Autograd, m) {
  m.impl("causal_conv1d_step", causal_conv1d_step_autograd);
}
TORCH_LIBRARY_IMPL(aspis, ADInplaceOrView, m) {
  m.impl("causal_conv1d_step", causal_conv1d_step_in_place);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCPU, m) {
  m.impl("causal_conv1d_step",
         causal_conv1d_step_autocast<at::kCPU, c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(aspis, AutocastCUDA, m) {
  m.impl("causal_conv1d_step",
         causal_conv1d_step_autocast<at::kCUDA, c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(aspis, FuncTorchBatched, m) {
  m.impl("causal_conv1d_step", batching_refusal());
}

}  // namespace aspis::ops
