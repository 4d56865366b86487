#pragma once
// Typed calls of this folder's helper operators, and the checks that CPU, CUDA and Meta kernels
// share. Nothing outside the folder includes it.

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "ops/causal_conv1d/causal_conv1d.h"

namespace aspis::ops {

using OptionalTensor = std::optional<at::Tensor>;

using CausalConv1dSignature = std::tuple<at::Tensor, at::Tensor>(
    const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
    std::string_view activation, const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state);

// dx, dweight, dbias, dinitial_state; 0-element tensors for absent inputs. An absent dy or
// dlast_state is zero.
using CausalConv1dBwdSignature = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
    const OptionalTensor& dy, const OptionalTensor& dlast_state, const at::Tensor& x,
    const at::Tensor& weight, const OptionalTensor& bias, std::string_view activation,
    const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
    const OptionalTensor& cu_seqlens, bool reverse);

using CausalConv1dStepSignature = at::Tensor(at::Tensor& state, const at::Tensor& x,
                                             const at::Tensor& weight, const OptionalTensor& bias,
                                             std::string_view activation,
                                             const OptionalTensor& src_slots,
                                             const OptionalTensor& dst_slots);

// aspis::_causal_conv1d_fwd and _bwd. fwd refuses a device without a kernel.
CausalConv1dSignature call_causal_conv1d_fwd;
CausalConv1dBwdSignature call_causal_conv1d_bwd;

// Sizes, dtypes and devices; throws with op, argument, wanted and found.
void check_causal_conv1d(const CausalConv1dArgs& args);
void check_causal_conv1d_grads(const OptionalTensor& dy, const OptionalTensor& dlast_state,
                               const CausalConv1dArgs& args);
void check_causal_conv1d_step(const CausalConv1dStepArgs& args);

// Which slot each row of a step reads and writes; -1 for none. Reads the values of the slot
// tensors, refuses slots out of range and two rows that write the same one.
struct StepSlots {
  std::vector<int64_t> rows;  // rows that are not padding
  std::vector<int64_t> src;   // slot read, one per entry of rows
  std::vector<int64_t> dst;   // slot written, or -1
};
StepSlots list_step_slots(const CausalConv1dStepArgs& args);

}  // namespace aspis::ops
