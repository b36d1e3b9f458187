// SPDX-License-Identifier: Apache-2.0
// Places, the ring of puts, and bytes; copies are jobs of a worker.
#include "axial/parallel/offload/offload_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/offload/backing.h"
#include "axial/parallel/offload/worker.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "offload";

void add(SpaceBytes& space, int64_t bytes) {
  space.live += bytes;
  space.peak = std::max(space.peak, space.live);
}

std::byte* bytes_of(const at::Tensor& tensor) { return static_cast<std::byte*>(tensor.mutable_data_ptr()); }

}  // namespace

namespace detail {

struct OffloadSlot {
  std::shared_ptr<OffloadStore> store;
  int64_t place = 0;
  int64_t bytes = 0;
  std::vector<int64_t> sizes, strides;
  at::TensorOptions options;
  PieceHashes hashes;  // the worker's
  int64_t number = 0;  // of the put, in a plan too
  Worker::Ticket written = 0;
  // Reads and writes under way and the tensors that they are of.
  std::deque<std::pair<Worker::Ticket, at::Tensor>> parts;
  at::Tensor fetched;
  Worker::Ticket fetch = 0;
};

}  // namespace detail

using detail::OffloadSlot;
using detail::Worker;

struct OffloadStore::State {
  struct Put {
    int64_t number = 0;
    Worker::Ticket ticket = 0;
    at::Tensor tensor;
  };

  OffloadOptions options;
  std::unique_ptr<detail::Backing> backing;
  std::deque<Put> puts;  // under way
  int64_t num_puts = 0;
  mutable std::mutex mutex;                             // of what follows
  std::map<int64_t, std::vector<int64_t>> free_places;  // by bytes
  OffloadBytes counted;
  Worker worker;  // ends before what it works on

  bool is_planned() const { return options.device.is_meta(); }

  int64_t take_place(int64_t bytes) {
    const std::lock_guard lock(mutex);
    std::vector<int64_t>& places = free_places[bytes];
    int64_t place = 0;
    if (places.empty()) {
      place = backing->make_place(bytes);
    } else {
      place = places.back();
      places.pop_back();
    }
    count(bytes);
    return place;
  }

  void give_back(int64_t place, int64_t bytes) {
    const std::lock_guard lock(mutex);
    free_places[bytes].push_back(place);
    count(-bytes);
  }

  // What was copied, into or from a place.
  void count_copy(int64_t bytes, bool writes) {
    const std::lock_guard lock(mutex);
    SpaceBytes& space = options.to == OffloadTo::kFile ? counted.file : counted.host;
    (writes ? space.written : space.read) += bytes;
  }

  void count_host(int64_t bytes) {
    const std::lock_guard lock(mutex);
    add(counted.host, bytes);
  }

  // Waits for the oldest puts until `left` are under way; the tensors of those that failed go too.
  void settle(size_t left) {
    while (puts.size() > left) {
      const Put put = std::move(puts.front());
      puts.pop_front();
      worker.wait(put.ticket);
    }
  }

  // The same up to the put of this number.
  void settle_to(int64_t number) {
    while (!puts.empty() && puts.front().number <= number) settle(puts.size() - 1);
  }

 private:
  void count(int64_t bytes) { add(options.to == OffloadTo::kFile ? counted.file : counted.host, bytes); }
};

OffloadStore::OffloadStore(std::unique_ptr<State> state) : state_(std::move(state)) {}
OffloadStore::~OffloadStore() = default;

std::shared_ptr<OffloadStore> OffloadStore::make(OffloadOptions options) {
  AXIAL_CHECK(options.to != OffloadTo::kNone, kOp, "place; expected host or file, got none");
  AXIAL_CHECK(options.device.is_cpu() || options.device.is_meta(), kOp,
              "device of tensors; expected cpu or meta, got {}", options.device.str());
  AXIAL_CHECK(options.puts_under_way >= 0, kOp, "puts under way; expected at least 0, got {}",
              options.puts_under_way);
  auto state = std::make_unique<State>();
  state->backing = options.device.is_meta()         ? detail::make_planned_backing(options)
                   : options.to == OffloadTo::kFile ? detail::make_file_backing(options)
                                                    : detail::make_host_backing();
  state->options = std::move(options);
  state->count_host(state->backing->host_bytes());
  return std::shared_ptr<OffloadStore>(new OffloadStore(std::move(state)));
}

Offloaded OffloadStore::put(const at::Tensor& tensor) {
  State& s = *state_;
  AXIAL_CHECK(tensor.defined() && tensor.device() == s.options.device, kOp,
              "device of a tensor; expected {}, got {}", s.options.device.str(),
              tensor.defined() ? tensor.device().str() : "none");
  at::Tensor source = tensor.detach();
  if (!source.is_non_overlapping_and_dense()) source = source.contiguous();
  auto slot = std::make_shared<OffloadSlot>();
  slot->bytes = source.numel() * static_cast<int64_t>(source.element_size());
  slot->sizes = source.sizes().vec();
  slot->strides = source.strides().vec();
  slot->options = source.options();
  slot->hashes.resize(static_cast<size_t>((slot->bytes + kOffloadPiece - 1) / kOffloadPiece));
  s.settle(static_cast<size_t>(std::max<int64_t>(0, s.options.puts_under_way - 1)));
  slot->place = s.take_place(detail::whole_pages(slot->bytes));
  slot->store = shared_from_this();
  Offloaded out(slot);
  if (!s.is_planned()) {
    detail::Backing& backing = *s.backing;
    slot->written = s.worker.start([&backing, slot, source] {
      backing.write(slot->place, 0, bytes_of(source), slot->bytes, slot->hashes);
    });
  }
  s.count_copy(slot->bytes, true);
  slot->number = ++s.num_puts;
  s.puts.push_back({slot->number, slot->written, std::move(source)});
  if (s.options.puts_under_way == 0) s.settle(0);
  return out;
}

void OffloadStore::settle() { state_->settle(0); }

// Tensors of host and Meta alike, by a storage of their own: torch's allocators, and who counts them, see
// none.
at::Tensor OffloadStore::host_buffer(int64_t elements, at::ScalarType dtype) {
  struct Buffer {
    std::shared_ptr<OffloadStore> store;
    int64_t bytes;
    detail::HostMemory memory;
    ~Buffer() { store->state_->count_host(-bytes); }
  };
  const int64_t bytes = detail::whole_pages(elements * static_cast<int64_t>(c10::elementSize(dtype)));
  const at::TensorOptions options = at::TensorOptions(dtype).device(state_->options.device);
  detail::HostMemory memory(state_->is_planned() ? 0 : bytes);
  state_->count_host(bytes);
  auto* buffer = new Buffer{shared_from_this(), bytes, std::move(memory)};
  c10::DataPtr data(
      buffer->memory.data(), buffer, [](void* b) { delete static_cast<Buffer*>(b); }, options.device());
  // Meta wants a storage that could grow; nobody lets it.
  const c10::Storage storage(c10::Storage::use_byte_size_t(), static_cast<size_t>(bytes), std::move(data),
                             c10::GetAllocator(options.device().type()), /*resizable=*/true);
  return at::empty({0}, options).set_(storage, 0, {elements}, {1});
}

void OffloadStore::write_host(const at::Tensor& buffer, const at::Tensor& tensor, bool adds) {
  if (adds) {
    buffer.add_(tensor);
  } else {
    buffer.copy_(tensor);
  }
  const std::lock_guard lock(state_->mutex);
  state_->counted.host.written += tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

OffloadBytes OffloadStore::bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->counted;
}

const OffloadOptions& OffloadStore::options() const { return state_->options; }
std::string OffloadStore::description() const { return state_->backing->description(); }

Offloaded& Offloaded::operator=(Offloaded&& other) noexcept {
  if (this == &other) return *this;
  release();
  slot_ = std::move(other.slot_);
  return *this;
}

Offloaded::~Offloaded() { release(); }

// What reads or writes tensors of the caller has to end. A put may still be under way: its job holds the
// tensor and comes before those of the next one in this place.
void Offloaded::release() noexcept {
  if (!slot_) return;
  const std::shared_ptr<OffloadSlot> slot = std::exchange(slot_, nullptr);
  OffloadStore::State& s = *slot->store->state_;
  slot->parts.emplace_back(slot->fetch, at::Tensor());
  for (const auto& part : slot->parts) {
    try {
      s.worker.wait(part.first);
    } catch (const std::exception&) {  // nobody wants the tensor any more
    }
  }
  s.give_back(slot->place, detail::whole_pages(slot->bytes));
  slot->store.reset();  // a job that still holds the slot must not hold the store, whose thread it is in
}

const std::vector<int64_t>& Offloaded::sizes() const { return slot_->sizes; }
at::ScalarType Offloaded::dtype() const { return c10::typeMetaToScalarType(slot_->options.dtype()); }

void Offloaded::start_fetch() {
  OffloadStore::State& s = *slot_->store->state_;
  AXIAL_CHECK(!slot_->fetched.defined(), kOp, "fetch of a tensor; expected none under way, got one");
  wait();
  slot_->fetched = at::empty_strided(slot_->sizes, slot_->strides, slot_->options);
  s.count_copy(slot_->bytes, false);
  if (s.is_planned()) return;
  slot_->fetch = s.worker.start([&s, slot = slot_.get(), into = bytes_of(slot_->fetched)] {
    s.backing->read(slot->place, 0, into, slot->bytes, slot->hashes);
  });
}

at::Tensor Offloaded::take() {
  if (!slot_->fetched.defined()) start_fetch();
  at::Tensor out = std::move(slot_->fetched);
  slot_->fetched.reset();
  slot_->store->state_->worker.wait(std::exchange(slot_->fetch, 0));
  return out;
}

int64_t Offloaded::start_read(const at::Tensor& into, int64_t first) const {
  return start_part(into, first, false);
}
int64_t Offloaded::start_write(const at::Tensor& from, int64_t first) const {
  return start_part(from, first, true);
}

int64_t Offloaded::start_part(const at::Tensor& part, int64_t first, bool writes) const {
  OffloadStore::State& s = *slot_->store->state_;
  const int64_t size = static_cast<int64_t>(c10::elementSize(dtype()));
  const int64_t all = slot_->bytes / size, end = first + part.numel();
  AXIAL_CHECK(part.device() == s.options.device && part.scalar_type() == dtype() && part.is_contiguous(), kOp,
              "part of a tensor; expected a contiguous {} one on {}, got {} on {}", c10::toString(dtype()),
              s.options.device.str(), c10::toString(part.scalar_type()), part.device().str());
  AXIAL_CHECK(0 <= first && end <= all && first * size % kOffloadPiece == 0 &&
                  (end == all || end * size % kOffloadPiece == 0),
              kOp, "part of a tensor; expected whole pieces of {} bytes of its {}, got elements [{}, {})",
              kOffloadPiece, slot_->bytes, first, end);
  s.count_copy(part.numel() * size, writes);
  Worker::Ticket ticket = 0;
  if (!s.is_planned()) {
    ticket = s.worker.start([&s, slot = slot_.get(), at = first * size, bytes = part.numel() * size,
                             data = bytes_of(part), writes] {
      if (writes) s.backing->write(slot->place, at, data, bytes, slot->hashes);
      if (!writes) s.backing->read(slot->place, at, data, bytes, slot->hashes);
    });
  }
  slot_->parts.emplace_back(ticket, part);
  return ticket;
}

void Offloaded::wait(int64_t ticket) const {
  OffloadStore::State& s = *slot_->store->state_;
  s.settle_to(slot_->number);
  s.worker.wait(slot_->written);  // a put that failed does so for ever
  std::exception_ptr failure;
  auto& parts = slot_->parts;
  while (!parts.empty() && parts.front().first <= ticket) {
    try {
      s.worker.wait(parts.front().first);
    } catch (const std::exception&) {
      if (!failure) failure = std::current_exception();
    }
    parts.pop_front();
  }
  if (failure) std::rethrow_exception(failure);
}

at::Tensor Offloaded::host_view() const {
  wait();
  const OffloadStore::State& s = *slot_->store->state_;
  if (s.options.to != OffloadTo::kHost || s.is_planned()) return {};
  std::byte* memory = s.backing->memory(slot_->place);
  return at::from_blob(memory, slot_->sizes, slot_->strides, slot_->options);
}

at::Tensor Offloaded::read() const {
  if (at::Tensor view = host_view(); view.defined()) return view;
  const at::Tensor flat = at::empty({c10::multiply_integers(slot_->sizes)}, slot_->options);
  start_read(flat);
  wait();
  return flat.as_strided(slot_->sizes, slot_->strides);
}

void Offloaded::write(const at::Tensor& values) const {
  const at::NoGradGuard no_grad;
  if (const at::Tensor view = host_view(); view.defined()) {
    view.copy_(values.reshape(slot_->sizes));
    return;
  }
  const at::Tensor flat = at::empty({c10::multiply_integers(slot_->sizes)}, slot_->options);
  flat.as_strided(slot_->sizes, slot_->strides).copy_(values.reshape(slot_->sizes));
  start_write(flat);
  wait();
}

}  // namespace axial::parallel
