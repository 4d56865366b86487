#include "dist/group.h"

#include <ATen/ops/empty.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "dist/connection.h"

namespace aspis::dist {

namespace {

// Found by std::getenv, absent when empty.
std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (!value || !*value) return std::nullopt;
  return std::string(value);
}

int64_t whole_number(const char* name, const std::string& text, int64_t min, int64_t max) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (errno != 0 || *end != '\0' || value < min || value > max) {
    throw ConfigError("environment variable " + std::string(name) +
                          ": expected a whole number from " + std::to_string(min) + " to " +
                          std::to_string(max) + ", got \"" + text + "\"",
                      "the launcher (torchrun) sets it; unset RANK and WORLD_SIZE for one process");
  }
  return value;
}

std::string required(const char* name, const std::string& why) {
  const auto value = variable(name);
  if (!value) {
    throw ConfigError(
        "environment variable " + std::string(name) + " is not set, but " + why,
        "start the processes with torchrun, or unset RANK and WORLD_SIZE for a single one");
  }
  return *value;
}

void check_tensor(const char* what, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.defined() && tensor.is_cpu() && tensor.is_contiguous(), what,
              ": the tensor must be a contiguous CPU tensor");
}

}  // namespace

Group::Group() = default;
Group::~Group() = default;
Group::Group(Group&&) noexcept = default;
Group& Group::operator=(Group&&) noexcept = default;

Group Group::from_environment() {
  Group group;
  const auto rank = variable("RANK"), size = variable("WORLD_SIZE");
  if (!rank && !size) return group;
  const std::string size_text = required("WORLD_SIZE", "RANK is");
  const std::string rank_text = required("RANK", "WORLD_SIZE is");
  group.size_ = whole_number("WORLD_SIZE", size_text, 1, 1 << 20);
  group.rank_ = whole_number("RANK", rank_text, 0, group.size_ - 1);
  if (const auto local = variable("LOCAL_RANK")) {
    group.local_rank_ = whole_number("LOCAL_RANK", *local, 0, group.size_ - 1);
  }
  if (group.size_ == 1) return group;
  const std::string why = "WORLD_SIZE is " + std::to_string(group.size_);
  const std::string address = required("MASTER_ADDR", why);
  const int64_t port = whole_number("MASTER_PORT", required("MASTER_PORT", why), 1, 65535);
  std::chrono::seconds timeout = kDefaultTimeout;
  if (const auto seconds = variable("ASPIS_DIST_TIMEOUT")) {
    timeout = std::chrono::seconds(whole_number("ASPIS_DIST_TIMEOUT", *seconds, 1, 1 << 20));
  }
  group.connection_ = connect(group.rank_, group.size_, address, port, timeout);
  return group;
}

void Group::all_reduce_sum(const at::Tensor& tensor) const {
  check_tensor("all_reduce_sum", tensor);
  if (connection_ && tensor.numel() > 0) connection_->all_reduce_sum(tensor);
}

void Group::broadcast(const at::Tensor& tensor, int64_t root) const {
  check_tensor("broadcast", tensor);
  TORCH_CHECK(root >= 0 && root < size_, "broadcast: root must be a rank from 0 to ", size_ - 1,
              ", got ", root);
  if (connection_ && tensor.numel() > 0) connection_->broadcast(tensor, root);
}

void Group::barrier() const {
  if (connection_) connection_->barrier();
}

std::vector<std::string> Group::all_gather(const std::string& text) const {
  if (!connection_) return {text};
  // Lengths first, then every rank's text in turn.
  at::Tensor lengths = at::empty({size_}, at::TensorOptions().dtype(at::kLong));  // (size)
  auto* length = lengths.mutable_data_ptr<int64_t>();
  for (int64_t r = 0; r < size_; ++r) length[r] = 0;
  length[rank_] = static_cast<int64_t>(text.size());
  connection_->all_reduce_sum(lengths);
  std::vector<std::string> out;
  for (int64_t r = 0; r < size_; ++r) {
    at::Tensor bytes = at::empty({length[r]}, at::TensorOptions().dtype(at::kByte));  // (length)
    if (length[r] > 0) {
      if (r == rank_) std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
      connection_->broadcast(bytes, r);
    }
    out.emplace_back(static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes());
  }
  return out;
}

}  // namespace aspis::dist
