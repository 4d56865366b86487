#pragma once

#include <cstdint>
#include <string>

namespace aspis::data {

// 12345678 -> "12 345 678"
inline std::string grouped(int64_t value) {
  const std::string digits = std::to_string(value);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ' ';
    out += digits[i];
  }
  return out;
}

}  // namespace aspis::data
