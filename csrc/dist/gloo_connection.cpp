// c10d's Gloo process group, which libtorch contains. Its header wants Gloo's headers, which the
// wheel does not ship: they come from the system (Debian: libgloo-dev) and may be older than the
// Gloo inside libtorch. That is safe as long as this file only names Gloo's types through pointers:
// the process group, its options and its devices are made and used by code in libtorch alone, and
// no Gloo class has its size, layout or virtual table taken from the system's headers. So: create
// options with create_default (never Options::create), call virtual functions of the group only.
#include "dist/connection.h"

#include <cstdlib>
#include <exception>
#include <stdexcept>

#include "core/error.h"

#if __has_include(<gloo/context.h>)
#define USE_C10D_GLOO  // libtorch is built with it; the header hides everything without
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace aspis::dist {

namespace {

std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

class GlooConnection : public Connection {
 public:
  GlooConnection(c10::intrusive_ptr<c10d::Backend> group, std::string self)
      : group_(std::move(group)), self_(std::move(self)) {}

  // A rank that ends while another still reads its last message would break that one's connection.
  ~GlooConnection() override {
    if (std::uncaught_exceptions() > 0) return;
    try {
      group_->barrier()->wait();
    } catch (const std::exception&) {
      // The peers are gone already: nobody is left to wait for.
    }
  }

  void all_reduce_sum(const at::Tensor& tensor) override {
    std::vector<at::Tensor> tensors{tensor};
    finish("all_reduce_sum", [&] { return group_->allreduce(tensors); });
  }

  void broadcast(const at::Tensor& tensor, int64_t root) override {
    std::vector<at::Tensor> tensors{tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    finish("broadcast", [&] { return group_->broadcast(tensors, options); });
  }

  void barrier() override {
    finish("barrier", [&] { return group_->barrier(); });
  }

 private:
  template <typename Start>
  void finish(const char* what, Start start) {
    try {
      start()->wait();
    } catch (const std::exception& error) {
      throw std::runtime_error(
          self_ + ": " + what +
          " failed; another rank has stopped or made a different call: " + first_line(error));
    }
  }

  c10::intrusive_ptr<c10d::Backend> group_;
  std::string self_;
};

// torchrun may hold the store itself; then no rank listens, and each restart has its own keys.
struct Launcher {
  bool holds_store = false;
  std::string prefix = "aspis";
};

Launcher launcher() {
  Launcher out;
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  out.holds_store = agent && std::string(agent) == "True";
  const char* restart = std::getenv("TORCHELASTIC_RESTART_COUNT");
  if (out.holds_store && restart) out.prefix += "/attempt_" + std::string(restart);
  return out;
}

}  // namespace

std::unique_ptr<Connection> connect(int64_t rank, int64_t size, const std::string& address,
                                    int64_t port, std::chrono::seconds timeout) {
  const std::string self = "rank " + std::to_string(rank) + " of " + std::to_string(size);
  const Launcher by = launcher();
  try {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.isServer = rank == 0 && !by.holds_store;
    options.numWorkers = static_cast<size_t>(size);
    options.timeout = timeout;
    auto store = c10::make_intrusive<c10d::TCPStore>(address, options);
    auto prefixed = c10::make_intrusive<c10d::PrefixStore>(by.prefix, std::move(store));
    auto group = c10::make_intrusive<c10d::ProcessGroupGloo>(
        prefixed, static_cast<int>(rank), static_cast<int>(size),
        c10d::ProcessGroupGloo::Options::create_default(timeout));
    return std::make_unique<GlooConnection>(std::move(group), self);
  } catch (const std::exception& error) {
    throw ConfigError(self + " cannot meet the others at " + address + ":" + std::to_string(port) +
                          ": " + first_line(error),
                      "check MASTER_ADDR and MASTER_PORT, and that all ranks were started");
  }
}

}  // namespace aspis::dist

#else

namespace aspis::dist {

std::unique_ptr<Connection> connect(int64_t, int64_t size, const std::string&, int64_t,
                                    std::chrono::seconds) {
  throw ConfigError("WORLD_SIZE is " + std::to_string(size) +
                        ", but this build has no Gloo: its headers were not found",
                    "install Gloo's headers (Debian: libgloo-dev) and build again");
}

}  // namespace aspis::dist

#endif
