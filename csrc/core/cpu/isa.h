#pragma once
// Which instruction set the CPU kernels run with. A kernel file `<op>_kernel.cpp` is compiled once
// per set with ASPIS_ISA naming its namespace (avx512, avx2, generic); `select` picks the best one
// that the processor has. ASPIS_ISA=avx2 in the environment forces a set, for tests and
// comparisons.

namespace aspis::cpu {

enum class Isa { kGeneric, kAvx2, kAvx512 };

// The set in use in this process. Throws when the environment names an unknown or unavailable one.
Isa isa();
const char* isa_name(Isa isa);

// Picks from the three compiled versions of one kernel table.
template <typename Table>
const Table& select(const Table& avx512, const Table& avx2, const Table& generic) {
  switch (isa()) {
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx2:
      return avx2;
    default:
      return generic;
  }
}

}  // namespace aspis::cpu
