// Attention against a softmax written out in loops.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <complex>

#include "nn/layer_support.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis;
using namespace aspis::test;

namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim, rope_dim;
  double rope_base;
  int64_t window;  // tokens; a large number for none
};

// x (l, heads * head_dim) with each pair (j, j + half) of a head as a complex number, turned.
void rotate(at::Tensor x, int64_t heads, const Shape& s, const std::vector<int64_t>& position) {
  auto a = x.accessor<double, 2>();
  const int64_t half = s.rope_dim / 2;
  for (int64_t i = 0; i < x.size(0); ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < half; ++j) {
        double& re = a[i][h * s.head_dim + j];
        double& im = a[i][h * s.head_dim + half + j];
        const double frequency = std::pow(s.rope_base, -2.0 * double(j) / double(s.rope_dim));
        const auto turned =
            std::complex<double>(re, im) * std::polar(1.0, double(position[size_t(i)]) * frequency);
        re = turned.real();
        im = turned.imag();
      }
    }
  }
}

// hidden (l, d); document[i] < 0: padding.
at::Tensor naive_attention(const nn::Module& m, const at::Tensor& hidden, const Shape& s,
                           const std::vector<int>& document) {
  const int64_t l = hidden.size(0);
  std::vector<int64_t> position;  // real tokens in front of each
  int64_t real = 0;
  for (const int d : document) {
    position.push_back(real);
    real += d >= 0;
  }
  const auto project = [&](const char* name) {
    return at::matmul(hidden, parameter(m, name).detach().t()).contiguous();
  };
  at::Tensor q = project("q_proj.weight"), k = project("k_proj.weight");
  const at::Tensor v = project("v_proj.weight");
  rotate(q, s.heads, s, position);
  rotate(k, s.kv_heads, s, position);
  at::Tensor out = at::zeros({l, s.heads * s.head_dim}, hidden.options());
  const auto qa = q.accessor<double, 2>(), ka = k.accessor<double, 2>();
  const auto va = v.accessor<double, 2>();
  auto oa = out.accessor<double, 2>();
  for (int64_t i = 0; i < l; ++i) {
    if (document[size_t(i)] < 0) continue;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t g = h / (s.heads / s.kv_heads);
      double total = 0;
      for (int64_t j = 0; j <= i; ++j) {
        if (document[size_t(j)] != document[size_t(i)]) continue;
        if (position[size_t(i)] - position[size_t(j)] >= s.window) continue;
        double score = 0;
        for (int64_t c = 0; c < s.head_dim; ++c) {
          score += qa[i][h * s.head_dim + c] * ka[j][g * s.head_dim + c];
        }
        const double weight = std::exp(score / std::sqrt(double(s.head_dim)));
        total += weight;
        for (int64_t c = 0; c < s.head_dim; ++c) {
          oa[i][h * s.head_dim + c] += weight * va[j][g * s.head_dim + c];
        }
      }
      for (int64_t c = 0; c < s.head_dim; ++c) oa[i][h * s.head_dim + c] /= total;
    }
  }
  return at::matmul(out, parameter(m, "o_proj.weight").detach().t());
}

}  // namespace

TEST_CASE("attention: equal to a softmax written out, with groups, positions and windows") {
  at::manual_seed(3);
  constexpr int64_t kNone = 1000;
  const std::vector<std::pair<std::string, Shape>> cases = {
      {R"({"heads": 3, "head_dim": 5})", {3, 3, 5, 0, 1, kNone}},
      {R"({"heads": 2, "rope_fraction": 1.0})", {2, 2, 6, 6, 10000, kNone}},
      {R"({"heads": 4, "kv_heads": 2, "head_dim": 8, "rope_fraction": 0.5, "rope_base": 100})",
       {4, 2, 8, 4, 100, kNone}},
      {R"({"heads": 4, "kv_heads": 1, "window": 3})", {4, 1, 3, 0, 1, 3}},
      {R"({"heads": 2, "rope_fraction": 1.0, "window": 5})", {2, 2, 6, 6, 10000, 5}},
  };
  for (const auto& [json, shape] : cases) {
    INFO(json);
    const auto mixer = build_mixer('*', json, 12);
    fill_parameters(*mixer);
    const at::Tensor hidden = at::randn({13, 12}, at::TensorOptions().dtype(at::kDouble));
    check_equal_in_double("one document", mixer->forward(hidden.unsqueeze(0), {})[0],
                          naive_attention(*mixer, hidden, shape, std::vector<int>(13, 0)));
    const std::vector<int> ids = {5, 5, -1, 5, 5, -1, 6, 6, 6, 6, -1, 6, -1};
    const nn::Segments segments{at::tensor(ids, at::TensorOptions().dtype(at::kInt)).unsqueeze(0),
                                {}};
    check_equal_in_double("documents", mixer->forward(hidden.unsqueeze(0), segments)[0],
                          naive_attention(*mixer, hidden, shape, ids));
  }
}

TEST_CASE("attention: a rotation of fraction 0 knows no positions") {
  at::manual_seed(4);
  const auto mixer = build_mixer('*', R"({"heads": 2})", 8);
  fill_parameters(*mixer);
  const at::Tensor hidden = at::randn({1, 6, 8}, at::TensorOptions().dtype(at::kDouble));
  // The last token sees all others, in whatever order.
  const at::Tensor order = at::tensor({3, 0, 4, 1, 2, 5}, at::TensorOptions().dtype(at::kLong));
  check_equal_in_double("last", mixer->forward(hidden.index_select(1, order), {}).select(1, 5),
                        mixer->forward(hidden, {}).select(1, 5));
}

TEST_CASE("attention: an empty row gives an empty result") {
  const auto mixer = build_mixer('*', R"({"heads": 2})", 8);
  fill_parameters(*mixer);
  const at::Tensor hidden = at::empty({2, 0, 8}, at::TensorOptions().dtype(at::kDouble));
  CHECK(mixer->forward(hidden, {}).sizes() == hidden.sizes());
}

TEST_CASE("attention: a cache of another batch size is refused") {
  const auto mixer = build_mixer('*', R"({"heads": 2})", 8);
  fill_parameters(*mixer);
  const auto cache = mixer->make_cache(2);
  const at::Tensor hidden = at::empty({3, 1, 8}, at::TensorOptions().dtype(at::kDouble));
  CHECK_THAT(message_of([&] { mixer->step(hidden, *cache); }),
             Catch::Matchers::Contains("the cache holds b=2 sequences, got hidden with b=3"));
}
