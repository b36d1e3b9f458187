// SPDX-License-Identifier: Apache-2.0
// Writing half of checkpoint.h: shards by all ranks, then index.json with the hash of itself by the first.
#include <ATen/ATen.h>

#include <algorithm>

#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/collectives/exchange.h"
#include "axial/train/checkpoint/checkpoint.h"
#include "axial/train/checkpoint/index_json.h"
#include "axial/train/checkpoint/pieces.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "checkpoint";
using detail::Item;
using detail::Pieces;

// A file of the checkpoint: consecutive items, and the rank that writes it.
struct Shard {
  std::string name;
  int64_t writer = 0;
  std::vector<size_t> items;
};

// Greedy: items keep their order; a file is closed before it would grow beyond the limit, and where the next
// writer's share begins.
void cut_into_shards(const std::vector<Item>& items, size_t begin, size_t end, const std::string& stem,
                     int64_t shard_bytes, int64_t num_writers, std::vector<Shard>& shards) {
  int64_t total = 0;
  for (size_t i = begin; i < end; ++i) total += items[i].bytes();
  int64_t bytes = 0, before = 0, number = 0;
  for (size_t i = begin; i < end; ++i) {
    const int64_t writer = total == 0 ? 0 : std::min(num_writers - 1, before * num_writers / total);
    if (number == 0 || bytes + items[i].bytes() > shard_bytes || writer != shards.back().writer) {
      shards.push_back({fmt::format("{}-{:05}.safetensors", stem, ++number), writer, {}});
      bytes = 0;
    }
    bytes += items[i].bytes();
    before += items[i].bytes();
    shards.back().items.push_back(i);
  }
}

DType dtype_of(const Item& item) { return ops::dtype_of(at::empty({0}, item.dtype()), kOp); }

std::vector<Item> items_of(const parallel::ParameterTable& parameters, size_t& num_values) {
  std::vector<Item> items;
  for (const auto& row : parameters.rows()) {
    AXIAL_CHECK(row->value.defined() && !row->value.is_meta(), kOp, "parameter '{}' has no values",
                row->spec.name);
    items.push_back({row.get(), "value"});
  }
  num_values = items.size();
  for (const auto& row : parameters.rows()) {
    for (const std::string& part : row->companion_names()) items.push_back({row.get(), part});
  }
  return items;
}

// The files of one rank, tensor after tensor; a file is open while its tensors come.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path folder, const Pieces& pieces)
      : folder_(std::move(folder)), pieces_(pieces) {}

  void add(const Shard& shard, size_t place, const at::Tensor& tensor) {
    if (place == 0) open(shard);
    writer_->write({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
    if (place + 1 == shard.items.size()) written_[shard.name] = writer_->finish();
  }
  const std::map<std::string, WrittenFile>& written() const { return written_; }

 private:
  void open(const Shard& shard) {
    std::vector<TensorPlan> plan;
    for (const size_t i : shard.items) {
      const Item& item = pieces_.items()[i];
      plan.push_back({item.key(), dtype_of(item), item.row->spec.shape});
    }
    writer_ = std::make_unique<SafetensorsWriter>(folder_ / shard.name, std::move(plan));
  }

  std::filesystem::path folder_;
  const Pieces& pieces_;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::map<std::string, WrittenFile> written_;
};

// One tensor of a writer's shards.
struct Turn {
  const Shard* shard = nullptr;
  size_t place = 0;
};

// Round after round every writer gets one tensor together, so all disks work at once and no rank waits for
// one that waits for it: sends of a round are under way before its pieces are received. An error of the disk
// is kept until the rounds are over, because the other ranks go on.
std::map<std::string, WrittenFile> write_turns(const std::filesystem::path& folder, const Pieces& pieces,
                                               const std::vector<Shard>& shards, int64_t num_writers,
                                               int64_t rank) {
  std::vector<std::vector<Turn>> turns(static_cast<size_t>(num_writers));
  size_t rounds = 0;
  for (const Shard& shard : shards) {
    auto& own = turns[static_cast<size_t>(shard.writer)];
    for (size_t k = 0; k < shard.items.size(); ++k) own.push_back({&shard, k});
    rounds = std::max(rounds, own.size());
  }
  ShardWriter writer(folder, pieces);
  std::exception_ptr failure;
  for (size_t round = 0; round < rounds; ++round) {
    std::vector<parallel::Pending> sends;
    for (int64_t w = 0; w < num_writers; ++w) {
      const auto& theirs = turns[static_cast<size_t>(w)];
      if (round < theirs.size())
        sends.push_back(pieces.send(theirs[round].shard->items[theirs[round].place], w));
    }
    const auto& mine = turns[static_cast<size_t>(rank)];
    if (round < mine.size()) {
      const Turn& turn = mine[round];
      const at::Tensor tensor = pieces.assemble(turn.shard->items[turn.place]);
      try {
        if (!failure) writer.add(*turn.shard, turn.place, tensor);
      } catch (const std::exception&) {
        failure = std::current_exception();
      }
    }
    for (parallel::Pending& send : sends) {
      if (send.valid()) send.wait();
    }
  }
  if (failure) std::rethrow_exception(failure);
  return writer.written();
}

}  // namespace

void write_checkpoint(const std::filesystem::path& folder, const RunState& state,
                      const parallel::ParameterTable& parameters, int64_t shard_bytes,
                      parallel::Communicator* ranks) {
  AXIAL_CHECK(shard_bytes > 0, kOp, "shard size must be positive; got {}", shard_bytes);
  size_t num_values = 0;
  const Pieces pieces(items_of(parameters, num_values), ranks);
  const int64_t num_writers = ranks == nullptr ? 1 : ranks->mesh().world_size();
  const int64_t rank = ranks == nullptr ? 0 : ranks->mesh().rank();
  std::vector<Shard> shards;
  const std::vector<Item>& items = pieces.items();
  cut_into_shards(items, 0, num_values, "model", shard_bytes, num_writers, shards);
  cut_into_shards(items, num_values, items.size(), "optimizer", shard_bytes, num_writers, shards);

  CheckpointIndex index;
  index.state = state;
  parallel::together([&] { index.files = write_turns(folder, pieces, shards, num_writers, rank); }, ranks);
  if (ranks != nullptr) {
    nlohmann::json files = nlohmann::json::object();
    for (const auto& [name, file] : index.files) files[name] = {file.bytes, file.hash};
    for (const std::string& text :
         parallel::exchange(files.dump(), ranks, parallel::all_axes(ranks->mesh()))) {
      const nlohmann::json theirs = nlohmann::json::parse(text);
      for (const auto& [name, file] : theirs.items()) {
        index.files[name] = {file.at(0).get<int64_t>(), file.at(1).get<std::string>()};
      }
    }
  }
  for (const Shard& shard : shards) {
    for (const size_t i : shard.items) {
      StoredParameter& stored = index.parameters[items[i].row->spec.name];
      stored.shape = items[i].row->spec.shape;
      stored.parts[items[i].part] = {dtype_of(items[i]), shard.name, items[i].key()};
    }
  }
  if (rank == 0) write_file_atomically(folder / kIndexFile, detail::to_text(index));
}

}  // namespace axial::train
