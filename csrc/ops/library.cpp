// Opens the operator namespace. Every op adds its own schemas and kernels in its folder.
#include <torch/library.h>

TORCH_LIBRARY(aspis, m) {
  (void)m;
}
