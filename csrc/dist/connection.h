#pragma once
// The wire behind a Group of several processes. Private to this room: gloo_connection.cpp is the
// one file that sees c10d.

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace aspis::dist {

// How long a rank waits for the others, at the start and in each collective.
constexpr std::chrono::seconds kDefaultTimeout{1800};

class Connection {
 public:
  virtual ~Connection() = default;
  virtual void all_reduce_sum(const at::Tensor& tensor) = 0;
  virtual void broadcast(const at::Tensor& tensor, int64_t root) = 0;
  virtual void barrier() = 0;
};

// Meets the other ranks at address:port, where rank 0 listens. Throws ConfigError when that fails.
std::unique_ptr<Connection> connect(int64_t rank, int64_t size, const std::string& address,
                                    int64_t port, std::chrono::seconds timeout);

}  // namespace aspis::dist
