// SPDX-License-Identifier: Apache-2.0
// Meeting: through the TCP store of torchrun's agent or of rank 0, of `--ranks`, or through a file.
#include "axial/parallel/communicator/world.h"

#include <c10/util/Logging.h>

#include <csignal>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "axial/core/text/text.h"
#include "axial/parallel/communicator/c10d.h"
#include "axial/parallel/communicator/nccl.h"
#include "axial/parallel/communicator/watch.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "world";

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before any thread
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

std::string required(const char* name) {
  const auto value = variable(name);
  AXIAL_CHECK(value, kOp, "environment variable {} is not set; expected it beside RANK, as torchrun does",
              name);
  return *value;
}

int64_t number(const char* name, const std::string& text, int64_t least, int64_t most) {
  char* end = nullptr;
  const int64_t value = std::strtoll(text.c_str(), &end, 10);
  AXIAL_CHECK(end != text.c_str() && *end == '\0' && least <= value && value <= most, kOp,
              "environment variable {}; expected a number of [{}, {}], got '{}'", name, least, most, text);
  return value;
}

}  // namespace

struct World::State {
  Options options;
  int64_t rank = 0, size = 1, local_rank = 0, local_size = 1;
  c10::intrusive_ptr<c10d::Store> store;
  std::shared_ptr<Watch> watch;
  int64_t turns = 0;          // of first_alone
  int64_t communicators = 0;  // made so far, on all ranks alike: each meets under keys of its own

  // `host`: who has the store.
  void watch_over(const std::string& host) {
    if (size == 1) return;
    // Writing to a rank that has just died would end this one without a word.
    struct sigaction now {};
    if (::sigaction(SIGPIPE, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
    // c10d warns of a lost rank with pages of stack frames; the watch says it in a line.
    if (!variable("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 2;  // errors
    watch = std::make_shared<Watch>(store, rank, size, options.timeout, host);
  }
};

World::World(std::unique_ptr<State> state) : state_(std::move(state)) {}
World::World(World&&) noexcept = default;
World& World::operator=(World&&) noexcept = default;
World::~World() = default;

World World::from_environment(Options options) {
  auto state = std::make_unique<State>();
  options.compare_calls = options.compare_calls || variable("AXIAL_COMPARE_CALLS").value_or("0") != "0";
  state->options = options;
  if (!variable("RANK") && !variable("WORLD_SIZE")) return World(std::move(state));
  constexpr int64_t kMost = 1 << 20;
  state->size = number("WORLD_SIZE", required("WORLD_SIZE"), 1, kMost);
  state->rank = number("RANK", required("RANK"), 0, state->size - 1);
  state->local_size = number("LOCAL_WORLD_SIZE", variable("LOCAL_WORLD_SIZE").value_or("1"), 1, state->size);
  state->local_rank = number("LOCAL_RANK", variable("LOCAL_RANK").value_or("0"), 0, state->local_size - 1);
  if (state->size == 1) return World(std::move(state));
  const std::string host = required("MASTER_ADDR");
  c10d::TCPStoreOptions store;
  store.port = static_cast<std::uint16_t>(number("MASTER_PORT", required("MASTER_PORT"), 1, 65535));
  const bool agent_hosts = variable("TORCHELASTIC_USE_AGENT_STORE").value_or("False") == "True";
  store.isServer = state->rank == 0 && !agent_hosts;
  store.waitWorkers = false;
  store.timeout = options.timeout;
  try {
    state->store = c10::make_intrusive<c10d::TCPStore>(host, store);
  } catch (const std::exception& error) {
    throw CollectiveError(fmt::format("[{}] rank {} cannot reach the store at {}:{}: {}", kOp, state->rank,
                                      host, store.port, error.what()));
  }
  state->watch_over(agent_hosts ? "the process that started the ranks" : "rank 0");
  return World(std::move(state));
}

World World::from_file(const std::filesystem::path& file, int64_t rank, int64_t size, Options options) {
  AXIAL_CHECK(size >= 1 && 0 <= rank && rank < size, kOp, "rank {} of {}; expected one of [0, {})", rank,
              size, size);
  auto state = std::make_unique<State>();
  state->options = options;
  state->rank = state->local_rank = rank;
  state->size = state->local_size = size;
  if (size == 1) return World(std::move(state));
  state->store = c10::make_intrusive<c10d::FileStore>(file.string(), static_cast<int>(size));
  state->store->setTimeout(options.timeout);
  state->watch_over(fmt::format("the folder of '{}'", file.string()));
  return World(std::move(state));
}

int64_t World::rank() const { return state_->rank; }
int64_t World::size() const { return state_->size; }
int64_t World::local_rank() const { return state_->local_rank; }
int64_t World::local_size() const { return state_->local_size; }

std::unique_ptr<Communicator> World::make_communicator(Mesh mesh) const {
  AXIAL_CHECK(mesh.world_size() == size() && mesh.rank() == rank(), kOp,
              "mesh of rank {} of {}; expected rank {} of {}", mesh.rank(), mesh.world_size(), rank(),
              size());
  if (size() == 1) return std::make_unique<Communicator>(std::move(mesh));
  auto keys = c10::make_intrusive<c10d::PrefixStore>(
      fmt::format("axial/communicator/{}", state_->communicators++), state_->store);
  Group all{"world", std::vector<int64_t>(static_cast<size_t>(size())), rank(), 0};
  std::iota(all.ranks.begin(), all.ranks.end(), 0);
  const Options& options = state_->options;
  const std::string meeting = fmt::format("the meeting #{} of all ranks", state_->communicators);
  std::unique_ptr<Transport> transport;
  state_->watch->enter(meeting);
  try {
    transport = make_c10d_transport({gloo_backends(keys, options.timeout), options.connect_sends},
                                    nccl_backends(keys, options.timeout), all);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw CollectiveError(fmt::format("[{}] {} cannot take place at rank {}: {}", kOp, meeting, rank(),
                                      state_->watch->explain(meeting, all.ranks, error.what())));
  }
  state_->watch->leave();
  return std::make_unique<Communicator>(std::move(mesh), std::move(transport), state_->watch,
                                        Communicator::Options{options.compare_calls});
}

void World::first_alone(const std::function<void()>& work) const {
  const std::string key = fmt::format("axial/first/{}", state_->turns++);
  if (size() > 1 && rank() != 0) state_->watch->wait_for(key, 0);
  work();
  if (size() > 1 && rank() == 0) state_->store->set(key, "done");
}

void World::post_failure(const std::string& reason) const {
  const std::string said = reason.substr(0, reason.find("\nException raised from"));  // c10's frames
  if (state_->watch) state_->watch->post_failure(fmt::format("rank {} stopped: {}", rank(), said));
}

struct StoreHost::State {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

StoreHost::StoreHost() : state_(std::make_unique<State>()) {
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  state_->store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
}

StoreHost::~StoreHost() = default;

uint16_t StoreHost::port() const { return state_->store->getPort(); }

void StoreHost::post_failure(const std::string& reason) { post_culprit(*state_->store, reason); }

}  // namespace axial::parallel
