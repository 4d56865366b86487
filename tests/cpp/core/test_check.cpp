#include <ATen/ops/empty.h>
#include <ATen/ops/isnan.h>

#include "core/alloc.h"
#include "core/check.h"
#include "core/log.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis;
using aspis::test::message_of;

TEST_CASE("check: messages name op, argument, wanted and found") {
  const at::Tensor x = at::empty({2, 63, 16});
  const auto starts = [](const std::string& text, const std::string& with) {
    return text.rfind(with, 0) == 0;
  };
  CHECK(starts(message_of([&] {
                 check_shape("scan", "delta", x, {{"b", 2}, {"l", 64}, {"d", 16}});
               }),
               "scan: delta must be (b=2, l=64, d=16), got (2, 63, 16)"));
  CHECK(starts(message_of([&] { check_dim("scan", "x", x, 4, "(b, l, h, p)"); }),
               "scan: x must be (b, l, h, p), got (2, 63, 16)"));
  CHECK(starts(message_of([&] { check_dtype("scan", "z", x, at::kHalf, "x's dtype"); }),
               "scan: z must be Half (x's dtype), got Float"));
  CHECK(starts(message_of([&] { check_floating("scan", "x", x.to(at::kLong)); }),
               "scan: x must be float32, float64, bfloat16 or float16, got Long"));
  CHECK(starts(
      message_of([&] { check_parameter_dtype("scan", "A", x.to(at::kHalf), at::kBFloat16); }),
      "scan: A must be BFloat16 (x's dtype) or Float, got Half"));
  CHECK(starts(message_of([&] { check_same_device("scan", "z", x.to("meta"), "x", x); }),
               "scan: z must be on cpu like x, got meta"));
  CHECK_NOTHROW(check_parameter_dtype("scan", "A", x, at::kBFloat16));
}

TEST_CASE("alloc: poisoned tensors hold NaN") {
  const bool before = poison_allocations(true);
  const at::Tensor like = at::empty({2, 3}, at::kBFloat16);
  CHECK(at::isnan(allocate({4, 5}, at::kFloat, like)).all().item<bool>());
  CHECK(at::isnan(allocate_like(like)).all().item<bool>());
  poison_allocations(before);
}

TEST_CASE("log: a sink takes the lines") {
  std::string seen;
  LogSink former = set_log_sink([&](LogLevel level, const std::string& line) {
    seen += (level == LogLevel::kWarning ? "W:" : "I:") + line + ";";
  });
  log_info("a");
  log_warning("b");
  set_log_sink(former);
  CHECK(seen == "I:a;W:b;");
}
