#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "ops/documents.h"
#include "support/catch.h"
#include "support/tolerance.h"

using namespace aspis::ops;
using aspis::test::message_of;

namespace {

at::Tensor ids(std::vector<int> values) {
  return at::tensor(values, at::kInt).unsqueeze(0);
}

std::string shown(const Documents& documents) {
  std::string out;
  for (const Sequence& sequence : documents.sequences) {
    out += "row" + std::to_string(sequence.row) + " state" + std::to_string(sequence.state) + ":";
    for (const Run& run : sequence.runs) {
      out += std::string(run.starts_document ? " |" : " +") + std::to_string(run.begin) + "-" +
             std::to_string(run.end);
    }
    out += ";";
  }
  return out;
}

}  // namespace

TEST_CASE("documents: a plain row is one document") {
  CHECK(shown(list_documents("op", 2, 3, {}, {}, false)) == "row0 state0: |0-3;row1 state1: |0-3;");
  CHECK(shown(list_documents("op", 1, 0, {}, {}, false)) == "row0 state0:;");
}

TEST_CASE("documents: seq_idx borders, padding in the middle and at the ends") {
  const at::Tensor row = ids({-1, 4, 4, -1, 4, 7, -2});
  const Documents forward = list_documents("op", 1, 7, row, {}, false);
  CHECK(forward.has_padding);
  CHECK(shown(forward) == "row0 state0: |1-3 +4-5 |5-6;");
  CHECK(shown(list_documents("op", 1, 7, row, {}, true)) == "row0 state0: |5-6 |4-5 +1-3;");
  // An id that comes back after another document is a new document.
  CHECK(shown(list_documents("op", 1, 3, ids({0, 1, 0}), {}, false)) ==
        "row0 state0: |0-1 |1-2 |2-3;");
}

TEST_CASE("documents: cu_seqlens, with a document of length zero") {
  const at::Tensor borders = at::tensor({0, 2, 2, 5}, at::kInt);
  CHECK(shown(list_documents("op", 1, 5, {}, borders, false)) ==
        "row0 state0: |0-2;row0 state1:;row0 state2: |2-5;");
  const at::Tensor x = at::zeros({1, 5, 1});
  const auto tokens = list_document_tokens("op", x, {}, borders, true);
  REQUIRE(tokens.size() == 3);
  CHECK(tokens[0].positions.equal(at::tensor({4, 3, 2}, at::kLong)));
  CHECK(tokens[1].positions.numel() == 0);
  CHECK(tokens[1].initial == 1);
  CHECK(tokens[1].last == 1);
}

TEST_CASE("documents: token lists say whose state is whose") {
  const at::Tensor x = at::zeros({1, 7, 1});
  const auto tokens = list_document_tokens("op", x, ids({-1, 4, 4, -1, 4, 7, -2}), {}, false);
  REQUIRE(tokens.size() == 2);
  CHECK(tokens[0].positions.equal(at::tensor({1, 2, 4}, at::kLong)));
  CHECK(tokens[0].initial == 0);
  CHECK(tokens[0].last == -1);
  CHECK(tokens[1].initial == -1);
  CHECK(tokens[1].last == 0);
}

TEST_CASE("documents: messages") {
  const at::Tensor x = at::zeros({1, 5, 1}), two = at::zeros({2, 5, 1});
  const at::Tensor borders = at::tensor({0, 5}, at::kInt);
  const auto text = [](const std::function<void()>& call) {
    const std::string whole = message_of(call);
    return whole.substr(0, whole.find('\n'));
  };
  CHECK(text([&] {
          check_documents("op", x, ids({0, 0, 0, 0, 0}), borders);
        }) == "op: give seq_idx or cu_seqlens, not both: each alone says where documents end");
  CHECK(text([&] {
          check_documents("op", x, ids({0, 0}), {});
        }) == "op: seq_idx must be (b=1, l=5), got (1, 2)");
  CHECK(text([&] { check_documents("op", two, {}, borders); }) ==
        "op: cu_seqlens needs b = 1 (all documents in one row), got b = 2");
  CHECK(text([&] { check_documents("op", x, {}, borders.to(at::kLong)); }) ==
        "op: cu_seqlens must be Int (document borders), got Long");
  const auto list = [&](std::vector<int> values) {
    return text([&] { list_documents("op", 1, 5, {}, at::tensor(values, at::kInt), false); });
  };
  CHECK(list({1, 5}) == "op: cu_seqlens must start at 0, got 1");
  CHECK(list({0, 3, 2, 5}) == "op: cu_seqlens must never decrease, got 3 then 2 at index 2");
  CHECK(list({0, 4}) == "op: cu_seqlens must end at l=5, got 4");
}
