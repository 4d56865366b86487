#include <ATen/ops/empty.h>

#include "nn/module.h"
#include "support/catch.h"

namespace {

class Leaf : public aspis::nn::Module {
 public:
  explicit Leaf(const at::TensorOptions& options) {
    add_parameter("weight", {2, 3}, options);
    add_parameter("bias", {3}, options, {.decay = false});
  }
};

class Tree : public aspis::nn::Module {
 public:
  explicit Tree(const at::TensorOptions& options) {
    add_parameter("scale", {1}, options);
    add_module("layers.0", std::make_shared<Leaf>(options));
    add_module("layers.1", std::make_shared<Leaf>(options));
  }
};

}  // namespace

TEST_CASE("module: names, order, hints and count, without memory on meta") {
  const Tree tree(at::TensorOptions().device("meta"));
  const auto parameters = tree.parameters();
  REQUIRE(parameters.size() == 5);
  CHECK(parameters[0].name == "scale");
  CHECK(parameters[3].name == "layers.1.weight");
  CHECK(parameters[4].name == "layers.1.bias");
  CHECK(parameters[3].hints.decay);
  CHECK_FALSE(parameters[4].hints.decay);
  CHECK(parameters[3].tensor.is_meta());
  CHECK(parameters[3].tensor.requires_grad());
  CHECK(tree.parameter_count() == 1 + 2 * 9);
}
