#include <algorithm>
#include <cmath>
#include <vector>

#include "core/cpu/isa.h"
#include "support/catch.h"
#include "vec_kernel.h"

using aspis::test::VecTable;

namespace {

const VecTable& table() {
  return aspis::cpu::select(aspis::test::avx512::vec_table(), aspis::test::avx2::vec_table(),
                            aspis::test::generic::vec_table());
}

// Largest distance from the function in double, in units of the last place of the float result.
double worst_ulp(void (*ours)(const float*, float*, int64_t), double (*exact)(double),
                 const std::vector<float>& x) {
  std::vector<float> y(x.size());
  ours(x.data(), y.data(), static_cast<int64_t>(x.size()));
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = exact(static_cast<double>(x[i]));
    const float near = static_cast<float>(want);
    const double ulp =
        std::max<double>(std::nextafter(std::abs(near), INFINITY) - std::abs(near), 1e-45);
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - want) / ulp);
  }
  return worst;
}

std::vector<float> spread(double begin, double end) {
  std::vector<float> x;
  const int count = 200001;  // not a multiple of any vector width
  for (int i = 0; i < count; ++i) x.push_back(float(begin + (end - begin) * i / (count - 1)));
  return x;
}

double exact_softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}
double exact_silu_derivative(double x) {
  const double s = 1 / (1 + std::exp(-x));
  return s * (1 + x * (1 - s));
}

}  // namespace

TEST_CASE("vec: exp within 2 ulp, exact zeros below the smallest float") {
  CHECK(worst_ulp(table().exp, std::exp, spread(-87.0, 88.0)) <= 2.0);
  CHECK(worst_ulp(table().exp, std::exp, spread(-1e-3, 1e-3)) <= 2.0);
  CHECK(worst_ulp(table().exp, std::exp, spread(-103.0, -87.0)) <= 2.0);  // below the normal range
  const float x[3] = {-200.f, -INFINITY, 0.f};
  float y[3];
  table().exp(x, y, 3);
  CHECK(y[0] == 0.f);
  CHECK(y[1] == 0.f);
  CHECK(y[2] == 1.f);
}

TEST_CASE("vec: log1p on [0, 1] within 2 ulp, tiny arguments kept") {
  CHECK(worst_ulp(table().log1p, std::log1p, spread(0.0, 1.0)) <= 2.0);
  CHECK(worst_ulp(table().log1p, std::log1p, spread(0.0, 1e-6)) <= 2.0);
}

TEST_CASE("vec: softplus keeps relative precision far below zero") {
  CHECK(worst_ulp(table().softplus, exact_softplus, spread(-80.0, 80.0)) <= 4.0);
}

TEST_CASE("vec: derivative of silu") {
  std::vector<float> x = spread(-30.0, 30.0), y(x.size());
  table().silu_derivative(x.data(), y.data(), static_cast<int64_t>(x.size()));
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    worst = std::max(worst, std::abs(double(y[i]) - exact_silu_derivative(double(x[i]))));
  }
  CHECK(worst <= 1e-6);
}

TEST_CASE("vec: sum adds every lane") {
  std::vector<float> x(static_cast<size_t>(table().lanes));
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(1 << (i % 16));
  float want = 0;
  for (float v : x) want += v;
  CHECK(table().sum(x.data()) == want);
}
