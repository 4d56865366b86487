#include "ops/documents.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "core/check.h"

namespace aspis::ops {

void check_documents(const char* op, const at::Tensor& x, const std::optional<at::Tensor>& seq_idx,
                     const std::optional<at::Tensor>& cu_seqlens) {
  TORCH_CHECK(!(seq_idx && cu_seqlens), op,
              ": give seq_idx or cu_seqlens, not both: each alone says where documents end");
  if (seq_idx) {
    check_shape(op, "seq_idx", *seq_idx, {{"b", x.sym_size(0)}, {"l", x.sym_size(1)}});
    check_dtype(op, "seq_idx", *seq_idx, at::kInt, "document ids");
    check_same_device(op, "seq_idx", *seq_idx, "x", x);
  }
  if (cu_seqlens) {
    check_dim(op, "cu_seqlens", *cu_seqlens, 1, "(docs + 1)");
    TORCH_CHECK(cu_seqlens->sym_size(0) >= 1, op,
                ": cu_seqlens must hold docs + 1 borders, got an empty tensor");
    check_dtype(op, "cu_seqlens", *cu_seqlens, at::kInt, "document borders");
    check_same_device(op, "cu_seqlens", *cu_seqlens, "x", x);
    TORCH_CHECK(x.sym_size(0) == 1, op,
                ": cu_seqlens needs b = 1 (all documents in one row), got b = ", x.sym_size(0));
  }
}

c10::SymInt state_count(const at::Tensor& x, const std::optional<at::Tensor>& cu_seqlens) {
  return cu_seqlens ? cu_seqlens->sym_size(0) - 1 : x.sym_size(0);
}

namespace {

Documents from_cu_seqlens(const char* op, int64_t l, const at::Tensor& cu_seqlens, bool reverse) {
  const at::Tensor borders = cu_seqlens.cpu().contiguous();
  const int32_t* border = borders.const_data_ptr<int32_t>();
  const int64_t docs = borders.numel() - 1;
  TORCH_CHECK(border[0] == 0, op, ": cu_seqlens must start at 0, got ", border[0]);
  for (int64_t i = 0; i < docs; ++i) {
    TORCH_CHECK(border[i] <= border[i + 1], op, ": cu_seqlens must never decrease, got ", border[i],
                " then ", border[i + 1], " at index ", i + 1);
  }
  TORCH_CHECK(border[docs] == l, op, ": cu_seqlens must end at l=", l, ", got ", border[docs]);
  Documents out;
  for (int64_t i = 0; i < docs; ++i) {
    Sequence sequence{0, i, {}};
    if (border[i] < border[i + 1]) sequence.runs.push_back({border[i], border[i + 1], true});
    out.sequences.push_back(std::move(sequence));
  }
  if (reverse) std::reverse(out.sequences.begin(), out.sequences.end());
  return out;
}

// Runs of one row in walking order. A run ends at a change of value; whether the next one starts a
// document depends on the last id that was not padding.
Sequence from_ids(int64_t row, int64_t l, const int32_t* ids, bool reverse, bool& has_padding) {
  Sequence sequence{row, row, {}};
  bool any = false;
  int32_t document = 0;
  const auto id = [&](int64_t walked) { return ids[reverse ? l - 1 - walked : walked]; };
  for (int64_t i = 0; i < l;) {
    int64_t end = i + 1;
    while (end < l && id(end) == id(i)) ++end;
    if (id(i) < 0) {
      has_padding = true;
    } else {
      const bool starts = !any || id(i) != document;
      sequence.runs.push_back(reverse ? Run{l - end, l - i, starts} : Run{i, end, starts});
      document = id(i);
      any = true;
    }
    i = end;
  }
  return sequence;
}

}  // namespace

Documents list_documents(const char* op, int64_t b, int64_t l,
                         const std::optional<at::Tensor>& seq_idx,
                         const std::optional<at::Tensor>& cu_seqlens, bool reverse) {
  if (cu_seqlens) return from_cu_seqlens(op, l, *cu_seqlens, reverse);
  Documents out;
  if (!seq_idx) {
    for (int64_t row = 0; row < b; ++row) {
      Sequence sequence{row, row, {}};
      if (l > 0) sequence.runs.push_back({0, l, true});
      out.sequences.push_back(std::move(sequence));
    }
    return out;
  }
  const at::Tensor ids = seq_idx->cpu().contiguous();
  for (int64_t row = 0; row < b; ++row) {
    out.sequences.push_back(
        from_ids(row, l, ids.const_data_ptr<int32_t>() + row * l, reverse, out.has_padding));
  }
  return out;
}

std::vector<DocumentTokens> list_document_tokens(const char* op, const at::Tensor& x,
                                                 const std::optional<at::Tensor>& seq_idx,
                                                 const std::optional<at::Tensor>& cu_seqlens,
                                                 bool reverse) {
  const Documents documents =
      list_documents(op, x.size(0), x.size(1), seq_idx, cu_seqlens, reverse);
  const auto options = at::TensorOptions().dtype(at::kLong).device(x.device());
  std::vector<DocumentTokens> out;
  for (const Sequence& sequence : documents.sequences) {
    std::vector<std::vector<at::Tensor>> pieces;
    for (const Run& run : sequence.runs) {
      if (run.starts_document || pieces.empty()) pieces.emplace_back();
      const at::Tensor positions = at::arange(run.begin, run.end, options);
      pieces.back().push_back(reverse ? positions.flip(0) : positions);
    }
    if (pieces.empty()) pieces.push_back({at::empty({0}, options)});
    for (size_t i = 0; i < pieces.size(); ++i) {
      out.push_back({sequence.row, i == 0 ? sequence.state : -1,
                     i + 1 == pieces.size() ? sequence.state : -1, at::cat(pieces[i])});
    }
  }
  return out;
}

}  // namespace aspis::ops
