#pragma once
// The helper operators of ssd as functions, and the checks that all devices share.

#include "ops/ssd/ssd.h"

namespace aspis::ops {

// Throw with op, argument, wanted and found; they read no values, so Meta shares them.
void check_ssd(const SsdArgs& args);
void check_ssd_step(const SsdStepArgs& args);

// y, last_state, and the states at chunk borders (b, l / kSsdChunk, h, p, n), an empty tensor
// unless saved.
std::tuple<at::Tensor, at::Tensor, at::Tensor> ssd_fwd(const SsdArgs& args, bool save_for_backward);

// Gradients in the order of the inputs; empty tensors for optional inputs that are absent.
struct SsdGrads {
  at::Tensor dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_state;
};
SsdGrads ssd_bwd(const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dlast_state,
                 const SsdArgs& args, const at::Tensor& states);

// The C++ types of the schemas.
using SsdResult = std::tuple<at::Tensor, at::Tensor>;
using SsdFwdResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using SsdBwdResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

// A kernel that takes an argument struct, turned into one with the schema's arguments spread out.
// The type of `call` is also the C++ type of the schema:
//   m.impl("_ssd_fwd", SpreadFwd<ssd_fwd_cpu>::call)
template <SsdFwdResult (*body)(const SsdArgs&, bool)>
struct SpreadFwd {
  static SsdFwdResult call(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& A,
                           const at::Tensor& B, const at::Tensor& C, const OptionalTensor& D,
                           const OptionalTensor& z, const OptionalTensor& dt_bias, bool dt_softplus,
                           std::optional<double> dt_min, std::optional<double> dt_max,
                           const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
                           const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state,
                           bool save_for_backward) {
    return body({x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max, initial_state, seq_idx,
                 cu_seqlens, reverse, return_last_state},
                save_for_backward);
  }
};
template <SsdGrads (*body)(const OptionalTensor& dy, const OptionalTensor& dlast_state,
                           const SsdArgs&, const at::Tensor& states)>
struct SpreadBwd {
  static SsdBwdResult call(const OptionalTensor& dy, const OptionalTensor& dlast_state,
                           const at::Tensor& x, const at::Tensor& dt, const at::Tensor& A,
                           const at::Tensor& B, const at::Tensor& C, const OptionalTensor& D,
                           const OptionalTensor& z, const OptionalTensor& dt_bias, bool dt_softplus,
                           std::optional<double> dt_min, std::optional<double> dt_max,
                           const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
                           const OptionalTensor& cu_seqlens, bool reverse,
                           const at::Tensor& states) {
    const SsdGrads g = body(dy, dlast_state,
                            {x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max,
                             initial_state, seq_idx, cu_seqlens, reverse, false},
                            states);
    return {g.dx, g.ddt, g.dA, g.dB, g.dC, g.dD, g.dz, g.ddt_bias, g.dinitial_state};
  }
};
template <SsdResult (*body)(const SsdArgs&)>
struct SpreadSsd {
  static SsdResult call(const at::Tensor& x, const at::Tensor& dt, const at::Tensor& A,
                        const at::Tensor& B, const at::Tensor& C, const OptionalTensor& D,
                        const OptionalTensor& z, const OptionalTensor& dt_bias, bool dt_softplus,
                        std::optional<double> dt_min, std::optional<double> dt_max,
                        const OptionalTensor& initial_state, const OptionalTensor& seq_idx,
                        const OptionalTensor& cu_seqlens, bool reverse, bool return_last_state) {
    return body({x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max, initial_state, seq_idx,
                 cu_seqlens, reverse, return_last_state});
  }
};
template <at::Tensor (*body)(const SsdStepArgs&)>
struct SpreadStep {
  static at::Tensor call(const at::Tensor& state, const at::Tensor& x, const at::Tensor& dt,
                         const at::Tensor& A, const at::Tensor& B, const at::Tensor& C,
                         const OptionalTensor& D, const OptionalTensor& z,
                         const OptionalTensor& dt_bias, bool dt_softplus,
                         std::optional<double> dt_min, std::optional<double> dt_max,
                         const OptionalTensor& src_slots, const OptionalTensor& dst_slots) {
    return body(
        {state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max, src_slots, dst_slots});
  }
};

}  // namespace aspis::ops
