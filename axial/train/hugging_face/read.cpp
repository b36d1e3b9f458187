// SPDX-License-Identifier: Apache-2.0
// Reading half of hugging_face.h: finds the model of the family, then gives its adapter the tensors by name.
#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <set>

#include "axial/core/text/text.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/train/hugging_face/hugging_face.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
constexpr std::string_view kOp = "hugging_face";

json read_json(const fs::path& path) {
  try {
    return json::parse(read_file(path));
  } catch (const json::exception& e) {
    fail(kOp, "'{}' is not valid JSON: {}", path.string(), e.what());
  }
}

// All weight files of a folder behind one name lookup.
class Weights {
 public:
  explicit Weights(const fs::path& folder) : folder_(folder) {
    std::set<std::string> names;
    const fs::path index = folder / "model.safetensors.index.json";
    if (fs::exists(index)) {
      names = names_in(read_json(index), index);
    } else {
      names.insert("model.safetensors");
    }
    for (const std::string& name : names) {
      AXIAL_CHECK(fs::exists(folder / name), kOp, "'{}' has no '{}'{}", folder.string(), name,
                  fs::exists(folder / "pytorch_model.bin")
                      ? "; pickled pytorch_model.bin is not read: save the model with safetensors"
                      : "");
      files_.push_back(std::make_unique<SafetensorsFile>(folder / name));
      for (const TensorEntry& entry : files_.back()->header().tensors) {
        AXIAL_CHECK(where_.emplace(entry.name, files_.back().get()).second, kOp,
                    "'{}': tensor '{}' is in two files", folder.string(), entry.name);
        available_.push_back(entry.name);
      }
    }
  }

  const SafetensorsFile& file_of(const std::string& name) const {
    const auto it = where_.find(name);
    AXIAL_CHECK(it != where_.end(), kOp, "'{}' has no tensor '{}'{}", folder_.string(), name,
                did_you_mean(name, available_));
    return *it->second;
  }

  const std::vector<std::string>& available() const { return available_; }

  at::ScalarType floating_type() const {
    for (const std::string& name : available_) {
      const auto& dtype = where_.at(name)->at(name).dtype;
      if (dtype && at::isFloatingType(ops::scalar_type_of(*dtype))) return ops::scalar_type_of(*dtype);
    }
    fail(kOp, "'{}' has no floating point weights", folder_.string());
  }

 private:
  static std::set<std::string> names_in(const json& index, const fs::path& path) {
    std::set<std::string> names;
    const bool well_formed =
        index.is_object() && index.contains("weight_map") && index["weight_map"].is_object();
    AXIAL_CHECK(well_formed, kOp, "'{}' has no weight_map", path.string());
    for (const auto& [tensor, file] : index["weight_map"].items()) {
      const std::string name = file.is_string() ? file.get<std::string>() : "";
      AXIAL_CHECK(!name.empty() && name.find('/') == std::string::npos, kOp,
                  "'{}': weight_map of '{}' is not a file name", path.string(), tensor);
      names.insert(name);
    }
    return names;
  }

  fs::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;
  std::vector<std::string> available_;
};

std::string type_of_family(const models::ModelRegistry& registry, const std::string& family,
                           const fs::path& folder) {
  std::vector<std::string> known;
  for (const std::string& type : registry.types()) {
    for (const std::string& name : registry.at(type).hugging_face.families) {
      if (name == family) return type;
      known.push_back(name);
    }
  }
  fail<UnsupportedError>(kOp, "'{}' holds a model of family '{}'; this build reads {}", folder.string(),
                         family, fmt::join(known, ", "));
}

}  // namespace

HuggingFaceModel open_hugging_face(const fs::path& folder, const models::ModelRegistry& registry) {
  const json config = read_json(folder / "config.json");
  AXIAL_CHECK(config.is_object() && config.contains("model_type") && config["model_type"].is_string(), kOp,
              "'{}' has no model_type", (folder / "config.json").string());
  const std::string type = type_of_family(registry, config["model_type"].get<std::string>(), folder);
  const models::ModelEntry& entry = registry.at(type);
  HuggingFaceModel out;
  try {
    out.model = entry.build(entry.hugging_face.import_config(config));
    const auto files = std::make_shared<const Weights>(folder);
    out.dtype = files->floating_type();
    const models::ForeignWeights weights{
        files->available(),
        [files](const std::string& name) { return describe_tensor(files->file_of(name), name); },
        [files](const std::string& name) { return read_tensor(files->file_of(name), name); }};
    out.weights = entry.hugging_face.import_weights(config, weights, *out.model.parameters);
  } catch (const json::exception& e) {
    fail(kOp, "'{}' is not as expected: {}", (folder / "config.json").string(), e.what());
  }
  const fs::path tokenizer = folder / "axial_tokenizer.json";
  if (fs::exists(tokenizer)) out.tokenizer = read_json(tokenizer);
  return out;
}

}  // namespace axial::train
