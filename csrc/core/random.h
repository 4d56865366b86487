#pragma once
// Random numbers by address instead of by turn: the number at (seed, stream, index) is a pure
// function of the three, so values do not depend on the order of calls, on threads or on
// neighbours.
//
// The generator is Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", 2011): a counter of 128 bits, here (index, stream), is scrambled under a key of 64
// bits, the seed.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>

namespace aspis {

// 128 random bits.
inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t index) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                               static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// A stream number for a name (64-bit FNV-1a).
inline uint64_t stream_of(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3;
  }
  return hash;
}

// Two independent numbers, uniform in the open interval (0, 1), with 53 random bits each.
inline std::pair<double, double> uniform_pair(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto bits = philox(seed, stream, index);
  const auto number = [](uint32_t high, uint32_t low) {
    const uint64_t word = (uint64_t{high} << 32) | low;
    return (static_cast<double>(word >> 11) + 0.5) * 0x1p-53;
  };
  return {number(bits[0], bits[1]), number(bits[2], bits[3])};
}

// Two independent standard normal numbers (Box and Muller).
inline std::pair<double, double> normal_pair(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto [u, v] = uniform_pair(seed, stream, index);
  const double radius = std::sqrt(-2.0 * std::log(u)), angle = 6.283185307179586 * v;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace aspis
