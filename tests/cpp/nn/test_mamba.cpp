// The Mamba layers against their formulas, one number at a time.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "nn/layer_support.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis;
using namespace aspis::test;

namespace {

const at::TensorOptions kOptions = at::TensorOptions().dtype(at::kDouble);

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double softplus(double x) {
  return std::log1p(std::exp(x));
}

at::Tensor values(const nn::Module& m, const std::string& name) {
  return parameter(m, name).detach();
}

// x (l, d) -> silu of the causal convolution plus bias.
at::Tensor naive_conv(const nn::Module& m, const at::Tensor& x) {
  const at::Tensor weight = values(m, "conv1d.weight"), bias = values(m, "conv1d.bias");
  const int64_t l = x.size(0), d = x.size(1), w = weight.size(1);
  at::Tensor out = at::zeros({l, d}, kOptions);
  const at::Tensor dense = x.contiguous();
  const auto xa = dense.accessor<double, 2>(), wa = weight.accessor<double, 2>();
  const auto ba = bias.accessor<double, 1>();
  auto oa = out.accessor<double, 2>();
  for (int64_t t = 0; t < l; ++t) {
    for (int64_t c = 0; c < d; ++c) {
      double sum = ba[c];
      for (int64_t back = 0; back < w && back <= t; ++back) {
        sum += wa[c][w - 1 - back] * xa[t - back][c];
      }
      oa[t][c] = silu(sum);
    }
  }
  return out;
}

struct Mamba2Shape {
  int64_t heads, p, groups, n;
  bool norm_before_gate;
  double eps, dt_min, dt_max;
};

at::Tensor naive_mamba2(const nn::Module& m, const at::Tensor& hidden, const Mamba2Shape& s) {
  const int64_t l = hidden.size(0), inner = s.heads * s.p, bc = s.groups * s.n;
  const at::Tensor all = at::matmul(hidden, values(m, "in_proj.weight").t());
  const at::Tensor conv = naive_conv(m, all.narrow(1, inner, inner + 2 * bc));
  const auto in = all.accessor<double, 2>(), xbc = conv.accessor<double, 2>();
  const at::Tensor a_log = values(m, "A_log"), skip = values(m, "D"), bias = values(m, "dt_bias");
  const at::Tensor gain = values(m, "norm.weight");
  const auto aa = a_log.accessor<double, 1>(), da = skip.accessor<double, 1>();
  const auto ta = bias.accessor<double, 1>(), ga = gain.accessor<double, 1>();
  at::Tensor out = at::zeros({l, inner}, kOptions);
  auto y = out.accessor<double, 2>();
  std::vector<double> state(size_t(inner * s.n), 0.0);
  for (int64_t t = 0; t < l; ++t) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t g = h / (s.heads / s.groups);
      const double raw = softplus(in[t][2 * inner + 2 * bc + h] + ta[h]);
      const double dt = std::clamp(raw, s.dt_min, s.dt_max);
      for (int64_t c = h * s.p; c < (h + 1) * s.p; ++c) {
        y[t][c] = da[h] * xbc[t][c];
        for (int64_t k = 0; k < s.n; ++k) {
          double& cell = state[size_t(c * s.n + k)];
          cell =
              std::exp(-dt * std::exp(aa[h])) * cell + dt * xbc[t][c] * xbc[t][inner + g * s.n + k];
          y[t][c] += cell * xbc[t][inner + bc + g * s.n + k];
        }
      }
    }
    const int64_t group = inner / s.groups;
    for (int64_t first = 0; first < inner; first += group) {
      double square = 0;
      for (int64_t c = first; c < first + group; ++c) {
        if (!s.norm_before_gate) y[t][c] *= silu(in[t][c]);
        square += y[t][c] * y[t][c];
      }
      for (int64_t c = first; c < first + group; ++c) {
        y[t][c] *= ga[c] / std::sqrt(square / double(group) + s.eps);
        if (s.norm_before_gate) y[t][c] *= silu(in[t][c]);
      }
    }
  }
  return at::matmul(out, values(m, "out_proj.weight").t());
}

at::Tensor naive_mamba1(const nn::Module& m, const at::Tensor& hidden, int64_t inner, int64_t rank,
                        int64_t n) {
  const int64_t l = hidden.size(0);
  const at::Tensor xz = at::matmul(hidden, values(m, "in_proj.weight").t());
  const at::Tensor conv = naive_conv(m, xz.narrow(1, 0, inner));
  const at::Tensor dbc = at::matmul(conv, values(m, "x_proj.weight").t());
  const at::Tensor low = at::matmul(dbc.narrow(1, 0, rank), values(m, "dt_proj.weight").t());
  const at::Tensor a_log = values(m, "A_log"), skip = values(m, "D");
  const at::Tensor bias = values(m, "dt_proj.bias");
  const auto in = xz.accessor<double, 2>(), x = conv.accessor<double, 2>();
  const auto pa = dbc.accessor<double, 2>(), la = low.accessor<double, 2>();
  const auto aa = a_log.accessor<double, 2>();
  const auto da = skip.accessor<double, 1>(), ba = bias.accessor<double, 1>();
  at::Tensor out = at::zeros({l, inner}, kOptions);
  auto y = out.accessor<double, 2>();
  for (int64_t c = 0; c < inner; ++c) {
    std::vector<double> state(size_t(n), 0.0);
    for (int64_t t = 0; t < l; ++t) {
      const double dt = softplus(la[t][c] + ba[c]);
      double sum = da[c] * x[t][c];
      for (int64_t k = 0; k < n; ++k) {
        state[size_t(k)] =
            std::exp(-dt * std::exp(aa[c][k])) * state[size_t(k)] + dt * pa[t][rank + k] * x[t][c];
        sum += pa[t][rank + n + k] * state[size_t(k)];
      }
      y[t][c] = sum * silu(in[t][inner + c]);
    }
  }
  return at::matmul(out, values(m, "out_proj.weight").t());
}

}  // namespace

TEST_CASE("mamba-2 layer: equal to its formula, norm grouped and on either side of the gate") {
  at::manual_seed(11);
  const std::vector<std::pair<std::string, Mamba2Shape>> cases = {
      {R"({"headdim": 4, "ngroups": 2, "d_state": 5})", {6, 4, 2, 5, false, 1e-5, 0, 1e9}},
      {R"({"headdim": 8, "ngroups": 3, "d_state": 4, "norm_before_gate": true, "norm_eps": 0.1})",
       {3, 8, 3, 4, true, 0.1, 0, 1e9}},
      {R"({"headdim": 4, "d_state": 3, "d_conv": 2, "dt_limit": [0.4, 0.9]})",
       {6, 4, 1, 3, false, 1e-5, 0.4, 0.9}},
  };
  for (const auto& [json, shape] : cases) {
    INFO(json);
    const auto mixer = build_mixer('M', json, 12);
    fill_parameters(*mixer);
    const at::Tensor hidden = at::randn({2, 19, 12}, kOptions);
    const at::Tensor out = mixer->forward(hidden, {});
    for (int64_t row = 0; row < 2; ++row) {
      check_equal_in_double("row", out[row], naive_mamba2(*mixer, hidden[row], shape));
    }
  }
}

TEST_CASE("mamba-1 layer: equal to its formula") {
  at::manual_seed(12);
  const auto mixer = build_mixer('m', R"({"d_state": 5, "dt_rank": 3})", 10);
  fill_parameters(*mixer);
  const at::Tensor hidden = at::randn({2, 19, 10}, kOptions);
  const at::Tensor out = mixer->forward(hidden, {});
  for (int64_t row = 0; row < 2; ++row) {
    check_equal_in_double("row", out[row], naive_mamba1(*mixer, hidden[row], 20, 3, 5));
  }
}
