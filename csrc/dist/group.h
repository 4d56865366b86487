#pragma once
// This process among its peers. One process is the group of size one: every call then returns at
// once, and nothing is opened. Several processes talk through c10d's Gloo, on the CPU; tensors on
// other devices are refused.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace aspis::dist {

class Connection;

class Group {
 public:
  // The group that the launcher describes in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
  // MASTER_PORT (the variables of torchrun). None of the first two set: a group of one. Some but
  // not all, or values that make no sense: ConfigError. Waits until all ranks have arrived, at most
  // ASPIS_DIST_TIMEOUT seconds (1800 when not set; collectives wait as long).
  static Group from_environment();

  // A group of one.
  Group();
  ~Group();
  Group(Group&&) noexcept;
  Group& operator=(Group&&) noexcept;

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  int64_t local_rank() const { return local_rank_; }  // among the ranks of this host
  bool is_first() const { return rank_ == 0; }

  // Collectives: every rank must make the same calls in the same order with equal shapes and
  // dtypes. In place, on contiguous CPU tensors.

  // Every rank gets the sum over ranks; the same bits on every rank.
  void all_reduce_sum(const at::Tensor& tensor) const;
  // Every rank gets rank `root`'s values.
  void broadcast(const at::Tensor& tensor, int64_t root = 0) const;
  // Returns when all ranks have called it.
  void barrier() const;
  // The texts of all ranks, in order of rank; they may differ in length.
  std::vector<std::string> all_gather(const std::string& text) const;

 private:
  int64_t rank_ = 0;
  int64_t size_ = 1;
  int64_t local_rank_ = 0;
  std::unique_ptr<Connection> connection_;
};

}  // namespace aspis::dist
