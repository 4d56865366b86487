#pragma once
// A fast 64-bit hash of bytes, the same on every machine. Not for adversaries.

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace aspis::data {

// A bijection of 64 bits whose output bits each depend on all input bits (the finaliser of
// SplitMix64; Steele, Lea and Flood 2014).
inline uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline uint64_t content_hash(std::string_view bytes) {
  uint64_t hash = mix64(bytes.size());
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    hash = mix64(std::rotl(hash, 23) ^ word);
  }
  uint64_t word = 0;
  if (at < bytes.size()) std::memcpy(&word, bytes.data() + at, bytes.size() - at);
  return mix64(std::rotl(hash, 23) ^ word);
}

}  // namespace aspis::data
