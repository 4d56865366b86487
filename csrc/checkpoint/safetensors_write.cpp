#include <ATen/core/Tensor.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checkpoint/durable_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"
#include "core/error.h"

namespace aspis::checkpoint {

namespace {

using Json = nlohmann::ordered_json;

struct Item {
  const std::string* name;
  const at::Tensor* tensor;
  size_t rank;
};

// The tensors in the order of their data: largest alignment first, so that all are aligned.
std::vector<Item> ordered(const std::string& file, const NamedTensors& tensors) {
  std::vector<Item> items;
  for (const auto& [name, tensor] : tensors) {
    const std::string what = file + ": tensor \"" + name + "\"";
    if (name == "__metadata__" || name.size() > kMaxName) {
      throw DataError(what + ": the format does not allow this name");
    }
    if (!tensor.defined()) throw DataError(what + " is undefined");
    if (tensor.layout() != at::kStrided || tensor.is_meta()) {
      throw DataError(what + " has no dense data that could be written");
    }
    items.push_back({&name, &tensor, safetensors_rank(tensor.scalar_type(), what)});
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.rank > b.rank; });
  return items;
}

std::string header_text(const std::string& file, const std::vector<Item>& items,
                        const Metadata& metadata) {
  // Entries are joined by hand: an ordered JSON object looks a key up by walking all of them.
  std::string text;
  const auto append = [&](const std::string& what, const Json& one) {
    try {
      const std::string dumped = one.dump();  // {"name":...}
      text += (text.empty() ? "" : ",") + dumped.substr(1, dumped.size() - 2);
    } catch (const Json::exception&) {
      throw DataError(file + ": " + what + " is not UTF-8");
    }
  };
  if (!metadata.empty()) append("a text of the metadata", Json{{"__metadata__", metadata}});
  uint64_t at = 0;
  for (const Item& item : items) {
    const uint64_t end = at + item.tensor->nbytes();
    Json one;
    one[*item.name] = {{"dtype", safetensors_dtype(item.tensor->scalar_type(), file)},
                       {"shape", item.tensor->sizes().vec()},
                       {"data_offsets", {at, end}}};
    append("the name of a tensor", one);
    at = end;
  }
  text = "{" + text + "}";
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins aligned
  if (text.size() > kMaxHeader) {
    throw DataError(file + ": the header would have " + std::to_string(text.size()) +
                    " bytes; the format allows " + std::to_string(kMaxHeader));
  }
  return text;
}

}  // namespace

void write_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                       const Metadata& metadata) {
  const std::vector<Item> items = ordered(file.string(), tensors);
  const std::string header = header_text(file.string(), items, metadata);
  DurableFile out(file);
  const uint64_t length = header.size();
  out.write(&length, 8);
  out.write(header.data(), header.size());
  for (const Item& item : items) {
    const at::Tensor dense = item.tensor->detach().resolve_conj().resolve_neg().cpu().contiguous();
    out.write(dense.const_data_ptr(), dense.nbytes());
  }
  out.commit();
}

}  // namespace aspis::checkpoint
