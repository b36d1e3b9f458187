// SPDX-License-Identifier: Apache-2.0
// Writing half of checkpoint.h: shards, then index.json with the hash of itself.
#include <ATen/ATen.h>

#include "axial/ops/common/kernel_call.h"
#include "axial/train/checkpoint/checkpoint.h"
#include "axial/train/checkpoint/index_json.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "checkpoint";

struct Item {
  std::string parameter;
  std::string part;
  at::Tensor tensor;

  std::string key() const { return part == "value" ? parameter : part + "/" + parameter; }
};

// Greedy: items keep their order; a file is closed before it would grow beyond the limit.
std::vector<std::vector<Item>> cut_into_shards(std::vector<Item> items, int64_t shard_bytes) {
  std::vector<std::vector<Item>> shards;
  int64_t bytes = 0;
  for (Item& item : items) {
    const auto size = static_cast<int64_t>(item.tensor.nbytes());
    if (shards.empty() || bytes + size > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += size;
    shards.back().push_back(std::move(item));
  }
  return shards;
}

void write_shards(const std::filesystem::path& folder, const std::string& stem, std::vector<Item> items,
                  int64_t shard_bytes, CheckpointIndex& index) {
  const auto shards = cut_into_shards(std::move(items), shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("{}-{:05}.safetensors", stem, i + 1);
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const Item& item : shards[i]) {
      tensors.emplace_back(item.key(), item.tensor);
      index.parameters[item.parameter].parts[item.part] = {ops::dtype_of(item.tensor, kOp), name, item.key()};
    }
    index.files[name] = write_safetensors(folder / name, tensors);
  }
}

}  // namespace

void write_checkpoint(const std::filesystem::path& folder, const RunState& state,
                      const parallel::ParameterTable& parameters, int64_t shard_bytes) {
  AXIAL_CHECK(shard_bytes > 0, kOp, "shard size must be positive; got {}", shard_bytes);
  CheckpointIndex index;
  index.state = state;
  std::vector<Item> values;
  std::vector<Item> companions;
  for (const auto& row : parameters.rows()) {
    AXIAL_CHECK(row->holding.is_whole(row->spec.shape), kOp,
                "parameter '{}' is held in part; expected a whole one", row->spec.name);
    AXIAL_CHECK(row->value.defined() && !row->value.is_meta(), kOp, "parameter '{}' has no values",
                row->spec.name);
    index.parameters[row->spec.name].shape = row->spec.shape;
    values.push_back({row->spec.name, "value", row->value});
    for (const auto& [part, tensor] : row->companions) companions.push_back({row->spec.name, part, tensor});
  }
  write_shards(folder, "model", std::move(values), shard_bytes, index);
  write_shards(folder, "optimizer", std::move(companions), shard_bytes, index);
  write_file_atomically(folder / kIndexFile, detail::to_text(index));
}

}  // namespace axial::train
