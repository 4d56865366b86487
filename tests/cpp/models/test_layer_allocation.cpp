#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "models/layer_allocation.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::models::allocate_layers;

namespace {

int64_t count(const std::string& pattern, char letter) {
  return std::count(pattern.begin(), pattern.end(), letter);
}

}  // namespace

TEST_CASE("layer allocation: the published patterns and the other test vectors") {
  struct Vector {
    int64_t layers;
    double attention, mlp;
    const char* pattern;
    int64_t m, a, f;
  };
  const char* published = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-";
  const Vector vectors[] = {
      {56, 0.07, 0.5, published, 24, 4, 28},
      {56, 0.0714, 0.5, published, 24, 4, 28},
      {56, 0.08, 0.5, published, 24, 4, 28},
      {48, 0.08, 0.5, "M-M-M--M-*M-M-M-M--*M-M-M-M-*M--M-M-M-*M-M--M-M-", 20, 4, 24},
      {24, 0.08, 0.5, "M-M-M--*M-M-M-M-*M--M-M-", 10, 2, 12},
      {48, 0.08, 0, "MMMMMMMMM*MMMMMMMMM*MMMMMMMM*MMMMMMMMM*MMMMMMMMM", 44, 4, 0},
      {48, 0.083, 0.3, "MM-MM-MM-*MMM-MM-MM*-MM-MM-M*M-MM-MMM-*MM-MM-MM-", 30, 4, 14},
      {52, 0.0769, 0.4615, "M-M-M-M-M-*M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-*M-M-M-M-M-", 24, 4, 24},
      {56, 0.08, 0.3, "MM-MM-MM-M*M-MM-MM-MM-*MM-MMM-MM-*MM-MM-MM-MM*-MM-MM-MM-", 35, 4, 17},
      {56, 0.0893, 0.5, "M-M--M-M-*M-M-M--M*-M-M-M--M*-M-M-M-M*--M-M-M-M*-M--M-M-", 23, 5, 28},
  };
  for (const Vector& v : vectors) {
    INFO(v.layers << " layers, attention " << v.attention << ", MLP " << v.mlp);
    const std::string pattern = allocate_layers(v.layers, v.attention, v.mlp);
    CHECK(pattern == v.pattern);
    CHECK(count(pattern, 'M') == v.m);
    CHECK(count(pattern, '*') == v.a);
    CHECK(count(pattern, '-') == v.f);
  }
}

TEST_CASE("layer allocation: the counts are what the ratios round to, halves to even") {
  CHECK(count(allocate_layers(10, 0.25, 0), '*') == 2);  // 2.5
  CHECK(count(allocate_layers(14, 0.25, 0), '*') == 4);  // 3.5
  CHECK(allocate_layers(3, 0, 0) == "MMM");
  CHECK(allocate_layers(3, 1, 0) == "***");
  CHECK(allocate_layers(4, 0.5, 0.5).find('M') == std::string::npos);
  for (int64_t layers = 1; layers <= 64; ++layers) {
    for (const double attention : {0.0, 0.04, 0.08, 0.125, 0.3}) {
      for (const double mlp : {0.0, 0.1, 0.3, 0.5}) {
        INFO(layers << " layers, attention " << attention << ", MLP " << mlp);
        const std::string pattern = allocate_layers(layers, attention, mlp);
        CHECK(count(pattern, '*') == std::nearbyint(double(layers) * attention));
        CHECK(count(pattern, '-') == std::nearbyint(double(layers) * mlp));
      }
    }
  }
}

TEST_CASE("layer allocation: impossible shares are refused") {
  const auto message = [](int64_t layers, double attention, double mlp) {
    return aspis::test::message_of([&] { allocate_layers(layers, attention, mlp); });
  };
  CHECK(message(0, 0, 0) == "the number of layers must be at least 1");
  CHECK(message(8, 0.6, 0.5) ==
        "attention_ratio and mlp_ratio must not be negative and must add up to at most 1");
  CHECK(message(8, -0.1, 0.5).find("must not be negative") != std::string::npos);
  CHECK(message(3, 0.5, 0.5) ==
        "the rounded numbers of attention and MLP layers exceed the 3 layers");
}
