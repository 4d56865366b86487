#include "dist/group.h"

#include <ATen/ATen.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <map>

#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::ConfigError;
using aspis::dist::Group;
using aspis::test::message_of;
using Catch::Matchers::Contains;

namespace {

using Variables = std::map<std::string, std::string>;

const char* const kNames[] = {"RANK",        "WORLD_SIZE",  "LOCAL_RANK",
                              "MASTER_ADDR", "MASTER_PORT", "ASPIS_DIST_TIMEOUT"};

void set_environment(const Variables& variables) {
  for (const char* name : kNames) ::unsetenv(name);
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
}

std::string refusal(const Variables& variables) {
  set_environment(variables);
  CHECK_THROWS_AS(Group::from_environment(), ConfigError);
  const std::string message = message_of([] { Group::from_environment(); });
  set_environment({});
  return message;
}

// A port that nobody listens on just now.
std::string free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  REQUIRE(::bind(socket, reinterpret_cast<sockaddr*>(&address), length) == 0);
  REQUIRE(::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  ::close(socket);
  return std::to_string(ntohs(address.sin_port));
}

// This program again, running one of the hidden cases below as rank `rank` of `size`.
pid_t start(const char* hidden_case, int64_t rank, int64_t size, const std::string& port) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  set_environment({{"RANK", std::to_string(rank)},
                   {"WORLD_SIZE", std::to_string(size)},
                   {"LOCAL_RANK", std::to_string(rank)},
                   {"MASTER_ADDR", "127.0.0.1"},
                   {"MASTER_PORT", port},
                   {"ASPIS_DIST_TIMEOUT", "60"}});
  ::execl("/proc/self/exe", "test_dist", hidden_case, static_cast<char*>(nullptr));
  ::_exit(127);
}

int exit_code(pid_t child) {
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void run_ranks(const char* hidden_case, int64_t size) {
  const std::string port = free_port();
  std::vector<pid_t> children;
  for (int64_t rank = 0; rank < size; ++rank) {
    children.push_back(start(hidden_case, rank, size, port));
  }
  for (const pid_t child : children) CHECK(exit_code(child) == 0);
}

}  // namespace

TEST_CASE("group: one process needs no variables and no communication") {
  const Variables alone[] = {{}, {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}}};
  for (const Variables& variables : alone) {
    set_environment(variables);
    const Group group = Group::from_environment();
    set_environment({});
    CHECK(group.rank() == 0);
    CHECK(group.size() == 1);
    CHECK(group.local_rank() == 0);
    CHECK(group.is_first());
    const at::Tensor tensor = at::arange(4, at::kDouble);
    group.all_reduce_sum(tensor);
    group.broadcast(tensor);
    group.barrier();
    aspis::test::check_bitwise("unchanged", tensor, at::arange(4, at::kDouble));
    CHECK(group.all_gather("text") == std::vector<std::string>{"text"});
  }
}

TEST_CASE("group: wrong or partial variables are refused by name") {
  CHECK_THAT(refusal({{"RANK", "0"}}), Contains("WORLD_SIZE is not set, but RANK is"));
  CHECK_THAT(refusal({{"WORLD_SIZE", "2"}}), Contains("RANK is not set, but WORLD_SIZE is"));
  CHECK_THAT(refusal({{"RANK", "2"}, {"WORLD_SIZE", "2"}}),
             Contains("RANK: expected a whole number from 0 to 1, got \"2\""));
  CHECK_THAT(refusal({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}), Contains("RANK: expected"));
  CHECK_THAT(refusal({{"RANK", "one"}, {"WORLD_SIZE", "2"}}), Contains("got \"one\""));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "0"}}), Contains("WORLD_SIZE: expected"));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2.5"}}), Contains("got \"2.5\""));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "7"}}),
             Contains("LOCAL_RANK: expected a whole number from 0 to 1"));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}}),
             Contains("MASTER_ADDR is not set, but WORLD_SIZE is 2"));
  CHECK_THAT(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "127.0.0.1"}}),
             Contains("MASTER_PORT is not set, but WORLD_SIZE is 2"));
  CHECK_THAT(refusal({{"RANK", "0"},
                      {"WORLD_SIZE", "2"},
                      {"MASTER_ADDR", "127.0.0.1"},
                      {"MASTER_PORT", "70000"}}),
             Contains("MASTER_PORT: expected a whole number from 1 to 65535"));
}

TEST_CASE("group: wrong tensors are refused, alone as among many") {
  const Group group;
  const auto refused = [&](const at::Tensor& tensor) {
    return message_of([&] { group.all_reduce_sum(tensor); });
  };
  CHECK_THAT(refused(at::Tensor()), Contains("must be a contiguous CPU tensor"));
  CHECK_THAT(refused(at::zeros({2, 3}).t()), Contains("must be a contiguous CPU tensor"));
  CHECK_THAT(refused(at::empty({2}, at::kMeta)), Contains("must be a contiguous CPU tensor"));
  CHECK_THAT(message_of([&] { group.broadcast(at::zeros({2}), 1); }),
             Contains("root must be a rank from 0 to 0, got 1"));
}

TEST_CASE("group: two and three processes agree") {
  run_ranks("group: worker", 2);
  run_ranks("group: worker", 3);
}

TEST_CASE("group: a rank that waits for nobody gives up with a sentence") {
  set_environment({{"RANK", "1"},
                   {"WORLD_SIZE", "2"},
                   {"MASTER_ADDR", "127.0.0.1"},
                   {"MASTER_PORT", free_port()},
                   {"ASPIS_DIST_TIMEOUT", "1"}});
  const std::string message = message_of([] { Group::from_environment(); });
  set_environment({});
  CHECK_THAT(message, Contains("rank 1 of 2 cannot meet the others at 127.0.0.1:"));
}

TEST_CASE("group: a rank that dies is noticed by the others") {
  run_ranks("group: deserter", 2);
}

// Run by the cases above in processes of their own, and by any launcher.
TEST_CASE("group: worker", "[.worker]") {
  const Group group = Group::from_environment();
  const int64_t size = group.size(), rank = group.rank();
  REQUIRE(size > 1);
  CHECK(group.local_rank() == rank);
  CHECK(group.is_first() == (rank == 0));

  for (const auto dtype : {at::kFloat, at::kDouble, at::kLong}) {
    const at::Tensor tensor = at::arange(1000, dtype).add(rank);
    group.all_reduce_sum(tensor);
    const at::Tensor wanted = at::arange(1000, dtype).mul(size).add(size * (size - 1) / 2);
    aspis::test::check_bitwise("sum", tensor, wanted);
  }
  // Rounded sums have the same bits everywhere.
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(rank + 1));
  const at::Tensor noise = at::randn({777}, generator, at::TensorOptions().dtype(at::kFloat));
  group.all_reduce_sum(noise);
  const std::string bytes(static_cast<const char*>(noise.const_data_ptr()), noise.nbytes());
  for (const std::string& other : group.all_gather(bytes)) CHECK(other == bytes);

  const at::Tensor empty = at::empty({0});
  group.all_reduce_sum(empty);
  for (int64_t root = 0; root < size; ++root) {
    const at::Tensor tensor = at::full({5}, static_cast<double>(rank));
    group.broadcast(tensor, root);
    aspis::test::check_bitwise("broadcast", tensor, at::full({5}, static_cast<double>(root)));
  }
  const std::vector<std::string> texts =
      group.all_gather(std::string(static_cast<size_t>(rank), 'x'));
  REQUIRE(static_cast<int64_t>(texts.size()) == size);
  for (int64_t r = 0; r < size; ++r) {
    CHECK(texts[static_cast<size_t>(r)] == std::string(static_cast<size_t>(r), 'x'));
  }
  group.barrier();
}

TEST_CASE("group: deserter", "[.worker]") {
  const Group group = Group::from_environment();
  group.barrier();
  if (group.rank() == 1) ::_exit(0);
  const at::Tensor tensor = at::zeros({4});
  CHECK_THAT(message_of([&] { group.all_reduce_sum(tensor); }),
             Contains("rank 0 of 2: all_reduce_sum failed; another rank has stopped"));
}
