// SPDX-License-Identifier: Apache-2.0
// Writing half of hugging_face.h.
#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>

#include "axial/core/text/text.h"
#include "axial/data/tokenizer/tokenizer.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/train/hugging_face/hugging_face.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
constexpr std::string_view kOp = "export";
constexpr std::string_view kTokenizerFile = "axial_tokenizer.json";
using NamedList = std::vector<std::pair<std::string, at::Tensor>>;

std::string choose_family(const models::ModelEntry& entry, const models::Model& model,
                          const std::string& wanted) {
  const auto& families = entry.hugging_face.families;
  AXIAL_CHECK(!families.empty(), kOp, "model '{}' has no Hugging Face form", model.type);
  if (!wanted.empty()) {
    AXIAL_CHECK(std::find(families.begin(), families.end(), wanted) != families.end(), kOp,
                "unknown family '{}'; expected one of {}{}", wanted, fmt::join(families, ", "),
                did_you_mean(wanted, families));
    return wanted;
  }
  std::string reasons;
  for (const std::string& family : families) {
    try {
      entry.hugging_face.export_config(model.config, family);
      return family;
    } catch (const UnsupportedError& e) {
      reasons += fmt::format("\n  {}: {}", family, e.what());
    }
  }
  fail<UnsupportedError>(kOp, "no Hugging Face family can express this model:{}", reasons);
}

std::vector<NamedList> cut_into_shards(const NamedList& tensors, int64_t shard_bytes) {
  std::vector<NamedList> shards;
  int64_t bytes = 0;
  for (const auto& item : tensors) {
    const auto size = static_cast<int64_t>(item.second.nbytes());
    if (shards.empty() || bytes + size > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += size;
    shards.back().push_back(item);
  }
  return shards;
}

void write_weights(const fs::path& folder, const NamedList& tensors, int64_t shard_bytes) {
  const std::map<std::string, std::string> metadata{{"format", "pt"}};  // transformers insists on it
  const auto shards = cut_into_shards(tensors, shard_bytes);
  if (shards.size() <= 1) {
    write_safetensors(folder / "model.safetensors", tensors, metadata);
    return;
  }
  json weight_map = json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const auto& [tensor_name, tensor] : shards[i]) {
      weight_map[tensor_name] = name;
      total += static_cast<int64_t>(tensor.nbytes());
    }
    write_safetensors(folder / name, shards[i], metadata);
  }
  const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_file_atomically(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

// Without them transformers takes the family's own: GPT-2's 50256, which our vocabularies do not have.
void name_special_ids(const json& tokenizer, json& config) {
  using data::SpecialIds;
  if (tokenizer.is_null()) return;
  config["bos_token_id"] = tokenizer.value("bos", true) ? json(SpecialIds::kBegin) : json(nullptr);
  config["eos_token_id"] = tokenizer.value("eos", true) ? json(SpecialIds::kEnd) : json(nullptr);
  config["pad_token_id"] = SpecialIds::kPad;
}

void write_files(const fs::path& folder, const models::ModelEntry& entry, const models::Model& model,
                 const json& tokenizer, const std::string& family, int64_t shard_bytes) {
  json config = entry.hugging_face.export_config(model.config, family);
  NamedList tensors;
  entry.hugging_face.export_weights(
      model.config, family, *model.parameters,
      [&](const std::string& name, const at::Tensor& tensor) { tensors.emplace_back(name, tensor); });
  AXIAL_CHECK(!tensors.empty(), kOp, "model '{}' gave no weights", model.type);
  name_special_ids(tokenizer, config);
  config["torch_dtype"] = name_of(ops::dtype_of(tensors.front().second, kOp));
  write_weights(folder, tensors, shard_bytes);
  if (!tokenizer.is_null()) write_file_atomically(folder / kTokenizerFile, tokenizer.dump(2) + "\n");
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

bool is_export_file(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  const bool known = name == "config.json" || name == kTokenizerFile ||
                     name == "model.safetensors.index.json" ||
                     (name.starts_with("model") && name.ends_with(".safetensors"));
  return known && entry.is_regular_file();
}

// Replacing deletes: only what an earlier export wrote, so that a typing error cannot take a run or a home.
void check_replaceable(const fs::path& folder, const HuggingFaceOptions& options) {
  AXIAL_CHECK(options.overwrite, kOp, "'{}' exists already; choose another folder or overwrite it",
              folder.string());
  AXIAL_CHECK(fs::is_directory(folder), kOp, "'{}' is no folder; expected a new one or an earlier export",
              folder.string());
  AXIAL_CHECK(
      options.source.empty() || !fs::exists(options.source) || !fs::equivalent(folder, options.source), kOp,
      "'{}' is the model that is exported; expected another folder", folder.string());
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    AXIAL_CHECK(is_export_file(entry), kOp,
                "'{}' holds '{}', which no export wrote; overwriting expects a folder of an earlier export",
                folder.string(), entry.path().filename().string());
  }
  for (const std::string_view name : {std::string_view("config.json"), kTokenizerFile}) {
    AXIAL_CHECK(fs::exists(folder / name), kOp,
                "'{}' has no '{}'; overwriting expects a folder of an earlier export", folder.string(), name);
  }
}

}  // namespace

std::string write_hugging_face(const fs::path& folder, const models::ModelRegistry& registry,
                               const models::Model& model, const json& tokenizer,
                               const HuggingFaceOptions& options) {
  const models::ModelEntry& entry = registry.at(model.type);
  const std::string family = choose_family(entry, model, options.family);
  const fs::path target = fs::absolute(folder).lexically_normal();
  const fs::path parent = (target.has_filename() ? target : target.parent_path()).parent_path();
  const std::string name = (target.has_filename() ? target : target.parent_path()).filename();
  const bool vacant =
      !fs::exists(parent / name) || (fs::is_directory(parent / name) && fs::is_empty(parent / name));
  if (!vacant) check_replaceable(parent / name, options);
  const fs::path temporary = parent / fmt::format(".tmp-{}-{}", name, ::getpid());
  const fs::path old = parent / fmt::format(".tmp-old-{}-{}", name, ::getpid());
  try {
    std::error_code error;
    fs::create_directories(temporary, error);
    if (error)
      fail<IoError>("export", "cannot create a folder in '{}': {}", parent.string(), error.message());
    write_files(temporary, entry, model, tokenizer, family, options.shard_bytes);
    sync_to_disk(temporary);
    if (fs::exists(parent / name)) rename_durably(parent / name, old);
    rename_durably(temporary, parent / name);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  fs::remove_all(old);
  return family;
}

}  // namespace axial::train
