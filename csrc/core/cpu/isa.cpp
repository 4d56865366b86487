#include "core/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "core/error.h"

namespace aspis::cpu {
namespace {

bool available(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  switch (isa) {
    case Isa::kAvx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    case Isa::kAvx2:
      return avx2;
    default:
      return true;
  }
#else
  return isa == Isa::kGeneric;
#endif
}

Isa detect() {
  const char* forced = std::getenv("ASPIS_ISA");
  for (Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kGeneric}) {
    if (forced ? std::string(forced) == isa_name(isa) : available(isa)) {
      if (!available(isa)) {
        throw MisuseError(std::string("ASPIS_ISA=") + forced + ": this processor lacks it",
                          "unset ASPIS_ISA to use the best set that the processor has");
      }
      return isa;
    }
  }
  throw MisuseError(std::string("ASPIS_ISA=") + forced + ": expected avx512, avx2 or generic");
}

}  // namespace

Isa isa() {
  static const Isa chosen = detect();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "generic";
  }
}

}  // namespace aspis::cpu
