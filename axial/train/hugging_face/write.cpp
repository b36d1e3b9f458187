// SPDX-License-Identifier: Apache-2.0
// Writing half of hugging_face.h.
#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "axial/core/progress/progress.h"
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

// What a weight file will hold.
struct Shard {
  std::string file;
  std::vector<TensorPlan> tensors;
};

// Exported once on Meta, where tensors have names, shapes and dtypes alone.
std::vector<Shard> plan_shards(const models::ModelEntry& entry, const models::Model& model,
                               const std::string& family, const HuggingFaceOptions& options) {
  parallel::ParameterReaders nothing;
  for (const auto& row : model.parameters->rows()) {
    nothing[row->spec.name] = [shape = row->spec.shape, dtype = options.dtype] {
      return at::empty(shape, at::TensorOptions(dtype).device(at::kMeta));
    };
  }
  std::vector<Shard> shards;
  int64_t bytes = 0;
  const auto put = [&](const std::string& name, const at::Tensor& tensor) {
    const auto size = static_cast<int64_t>(tensor.nbytes());
    if (shards.empty() || bytes + size > options.shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += size;
    shards.back().tensors.push_back({name, ops::dtype_of(tensor, kOp), tensor.sizes().vec()});
  };
  entry.hugging_face.export_weights(model.config, family, *model.parameters, nothing, put);
  AXIAL_CHECK(!shards.empty(), kOp, "model '{}' gave no weights", model.type);
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

void write_shard_index(const fs::path& folder, const std::vector<Shard>& shards) {
  json weight_map = json::object();
  int64_t total = 0;
  for (const Shard& shard : shards) {
    for (const TensorPlan& tensor : shard.tensors) {
      weight_map[tensor.name] = shard.file;
      total += tensor.bytes();
    }
  }
  const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_file_atomically(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

// Takes the tensors in the order of the plan, and writes each when it comes.
class ShardWriter {
 public:
  ShardWriter(fs::path folder, const std::vector<Shard>& shards)
      : folder_(std::move(folder)), shards_(shards), progress_(progress_over(shards)) {}

  void put(const std::string& name, const at::Tensor& tensor) {
    AXIAL_CHECK(shard_ < shards_.size() && shards_[shard_].tensors[next_].name == name, kOp,
                "tensor '{}' comes out of its turn", name);
    const Shard& shard = shards_[shard_];
    // transformers insists on the format
    if (!file_)
      file_.emplace(folder_ / shard.file, shard.tensors,
                    std::map<std::string, std::string>{{"format", "pt"}});
    const at::Tensor host = tensor.to(at::kCPU, ops::scalar_type_of(shard.tensors[next_].dtype)).contiguous();
    file_->write({static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()});
    progress_.advance(static_cast<int64_t>(host.nbytes()) / kMegabyte);
    if (++next_ < shard.tensors.size()) return;
    file_->finish();
    file_.reset();
    ++shard_;
    next_ = 0;
  }

  void finish() {
    AXIAL_CHECK(shard_ == shards_.size(), kOp, "{} of {} weight files are complete", shard_, shards_.size());
    progress_.finish();
  }

 private:
  static constexpr int64_t kMegabyte = 1'000'000;

  static ProgressOptions progress_over(const std::vector<Shard>& shards) {
    ProgressOptions options{.label = "export", .unit = "MB", .quiet_s = 2};
    for (const Shard& shard : shards) {
      for (const TensorPlan& tensor : shard.tensors) options.total += tensor.bytes() / kMegabyte;
    }
    return options;
  }

  fs::path folder_;
  const std::vector<Shard>& shards_;
  std::optional<SafetensorsWriter> file_;
  size_t shard_ = 0, next_ = 0;
  Progress progress_;
};

// Without them transformers takes the family's own: GPT-2's 50256, which our vocabularies do not have.
void name_special_ids(const json& tokenizer, json& config) {
  using data::SpecialIds;
  if (tokenizer.is_null()) return;
  config["bos_token_id"] = tokenizer.value("bos", true) ? json(SpecialIds::kBegin) : json(nullptr);
  config["eos_token_id"] = tokenizer.value("eos", true) ? json(SpecialIds::kEnd) : json(nullptr);
  config["pad_token_id"] = SpecialIds::kPad;
}

void write_files(const fs::path& folder, const models::ModelEntry& entry, const models::Model& model,
                 const parallel::ParameterReaders& weights, const json& tokenizer, const std::string& family,
                 const HuggingFaceOptions& options) {
  json config = entry.hugging_face.export_config(model.config, family);
  const std::vector<Shard> shards = plan_shards(entry, model, family, options);
  ShardWriter writer(folder, shards);
  entry.hugging_face.export_weights(
      model.config, family, *model.parameters, weights,
      [&](const std::string& name, const at::Tensor& tensor) { writer.put(name, tensor); });
  writer.finish();
  if (shards.size() > 1) write_shard_index(folder, shards);
  name_special_ids(tokenizer, config);
  config["torch_dtype"] = name_of(shards.front().tensors.front().dtype);
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
                               const models::Model& model, const parallel::ParameterReaders& weights,
                               const json& tokenizer, const HuggingFaceOptions& options) {
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
    write_files(temporary, entry, model, weights, tokenizer, family, options);
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
