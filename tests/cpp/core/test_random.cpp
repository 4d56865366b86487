#include <cmath>

#include "core/random.h"
#include "support/catch.h"

using aspis::philox;

TEST_CASE("random: Philox4x32-10 gives its authors' known answers") {
  using Bits = std::array<uint32_t, 4>;
  CHECK(philox(0, 0, 0) == Bits{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox(~0ull, ~0ull, ~0ull) == Bits{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
        Bits{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random: uniform and normal numbers have their moments, streams do not correlate") {
  const int64_t pairs = 100000;
  const uint64_t first = aspis::stream_of("layers.0.mixer.D"),
                 second = aspis::stream_of("layers.1.mixer.D");
  CHECK(first != second);
  double mean = 0, square = 0, fourth = 0, cross = 0, uniform = 0, between = 0;
  for (int64_t i = 0; i < pairs; ++i) {
    const auto [a, b] = aspis::normal_pair(7, first, static_cast<uint64_t>(i));
    const auto [c, d] = aspis::normal_pair(7, second, static_cast<uint64_t>(i));
    const auto [u, v] = aspis::uniform_pair(7, first, static_cast<uint64_t>(i));
    REQUIRE((u > 0 && u < 1 && v > 0 && v < 1));
    mean += a + b;
    square += a * a + b * b;
    fourth += a * a * a * a + b * b * b * b;
    cross += a * b;
    between += a * c + b * d;
    uniform += u + v;
  }
  // Five standard errors each.
  const double n = 2.0 * static_cast<double>(pairs), error = 5 / std::sqrt(n);
  CHECK(std::abs(mean / n) < error);
  CHECK(std::abs(square / n - 1) < error * std::sqrt(2.0));
  CHECK(std::abs(fourth / n - 3) < error * std::sqrt(96.0));
  CHECK(std::abs(cross / static_cast<double>(pairs)) < error * std::sqrt(2.0));
  CHECK(std::abs(between / n) < error);
  CHECK(std::abs(uniform / n - 0.5) < error * std::sqrt(1.0 / 12));
}
