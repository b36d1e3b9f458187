// SPDX-License-Identifier: Apache-2.0
// Reading half of checkpoint.h: verification, comparison of models, filling a table.
#include <ATen/ATen.h>

#include <algorithm>
#include <memory>

#include "axial/core/text/text.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/train/checkpoint/checkpoint.h"
#include "axial/train/checkpoint/index_json.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
constexpr std::string_view kOp = "checkpoint";

void collect_differences(const std::string& path, const json& a, const json& b, size_t limit,
                         std::vector<std::string>& out) {
  if (out.size() >= limit || a == b) return;
  if (a.is_object() && b.is_object()) {
    for (const auto& [key, value] : a.items()) {
      const std::string inner = path.empty() ? key : path + "." + key;
      collect_differences(inner, value, b.contains(key) ? b[key] : json("absent"), limit, out);
    }
    for (const auto& [key, value] : b.items()) {
      const std::string inner = path.empty() ? key : path + "." + key;
      if (!a.contains(key)) collect_differences(inner, json("absent"), value, limit, out);
    }
    return;
  }
  out.push_back(fmt::format("{}: {}, {}", path, a.dump(), b.dump()));
}

// Keeps each mapped file open while its tensors are read.
class OpenFiles {
 public:
  explicit OpenFiles(fs::path folder) : folder_(std::move(folder)) {}

  const SafetensorsFile& at(const std::string& name) {
    auto& slot = files_[name];
    if (!slot) slot = std::make_unique<SafetensorsFile>(folder_ / name);
    return *slot;
  }

 private:
  fs::path folder_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;
};

at::Tensor read_part(OpenFiles& files, const StoredParameter& stored, const std::string& part,
                     const parallel::Holding& holding) {
  const StoredTensor& where = stored.parts.at(part);
  const SafetensorsFile& file = files.at(where.file);
  AXIAL_CHECK(file.at(where.key).shape == stored.shape, kOp, "'{}': '{}' has shape [{}]; the index says [{}]",
              file.path().string(), where.key, fmt::join(file.at(where.key).shape, ", "),
              fmt::join(stored.shape, ", "));
  return read_held(file, where.key, holding);
}

// A saved companion; behind the rows that were saved what is there already, or zeros.
at::Tensor completed(const parallel::Parameter& row, const std::string& part, const at::Tensor& saved) {
  const std::vector<int64_t> shape = row.holding.held_shape();
  if (saved.numel() == c10::multiply_integers(shape)) return saved.view(shape);
  const std::vector<std::string> names = row.companion_names();
  const bool known = std::find(names.begin(), names.end(), part) != names.end();
  at::Tensor out = known ? row.companion(part).clone() : at::zeros(shape, saved.options());
  parallel::write_beginning(out, saved);
  return out;
}

void check_same_parameters(const CheckpointIndex& index, const parallel::ParameterTable& table) {
  std::vector<std::string> names;
  for (const auto& [name, parameter] : index.parameters) names.push_back(name);
  for (const auto& row : table.rows()) {
    const auto it = index.parameters.find(row->spec.name);
    AXIAL_CHECK(it != index.parameters.end(), kOp, "'{}' has no parameter '{}'{}", index.folder.string(),
                row->spec.name, did_you_mean(row->spec.name, names));
    AXIAL_CHECK(row->spec.takes(it->second.shape), kOp,
                "'{}': parameter '{}' has another shape; expected [{}]{}, got [{}]", index.folder.string(),
                row->spec.name, fmt::join(row->spec.shape, ", "), row->spec.grows ? " or fewer rows" : "",
                fmt::join(it->second.shape, ", "));
  }
  for (const std::string& name : names) {
    AXIAL_CHECK(table.contains(name), kOp, "'{}' has parameter '{}', which the model lacks",
                index.folder.string(), name);
  }
}

}  // namespace

std::vector<std::string> json_differences(const json& first, const json& second, size_t limit) {
  std::vector<std::string> out;
  collect_differences("", first, second, limit, out);
  return out;
}

CheckpointIndex read_checkpoint_index(const fs::path& folder) {
  const fs::path path = folder / kIndexFile;
  return detail::from_text(read_file(path), path);
}

void verify_checkpoint(const CheckpointIndex& index, CheckpointParts parts) {
  std::map<std::string, bool> wanted;
  for (const auto& [name, parameter] : index.parameters) {
    for (const auto& [part, stored] : parameter.parts) {
      if (parts == CheckpointParts::kEverything || part == "value") wanted[stored.file] = true;
    }
  }
  for (const auto& [name, use] : wanted) {
    const WrittenFile& expected = index.files.at(name);
    const fs::path path = index.folder / name;
    std::error_code error;
    const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
    AXIAL_CHECK(!error, kOp, "'{}' cannot be read: {}", path.string(), error.message());
    AXIAL_CHECK(bytes == expected.bytes, kOp, "'{}' is damaged: expected {} bytes, got {}", path.string(),
                expected.bytes, bytes);
    AXIAL_CHECK(hash_file(path) == expected.hash, kOp,
                "'{}' is damaged: its content does not have the hash it was written with", path.string());
  }
}

void check_same_model(const CheckpointIndex& index, const std::string& model_type, const json& model_config) {
  const RunState& state = index.state;
  AXIAL_CHECK(state.model_type == model_type, kOp, "'{}' is of another model; expected '{}', got '{}'",
              index.folder.string(), model_type, state.model_type);
  const auto differences = json_differences(state.model_config, model_config, 5);
  AXIAL_CHECK(differences.empty(), kOp,
              "'{}' is of another architecture; differing (in the checkpoint, here): {}",
              index.folder.string(), fmt::join(differences, "; "));
}

parallel::ParameterReaders parameter_readers(const CheckpointIndex& index) {
  const auto files = std::make_shared<OpenFiles>(index.folder);
  parallel::ParameterReaders readers;
  for (const auto& [name, stored] : index.parameters) {
    readers[name] = [files, stored = stored] {
      return read_part(*files, stored, "value", parallel::Holding::whole(stored.shape));
    };
  }
  return readers;
}

void load_parameters(const CheckpointIndex& index, CheckpointParts parts,
                     parallel::ParameterTable& parameters) {
  check_same_parameters(index, parameters);
  OpenFiles files(index.folder);
  for (const auto& row : parameters.rows()) {
    const StoredParameter& stored = index.parameters.at(row->spec.name);
    const auto saved_part = [&](const std::string& part, const parallel::Holding& holding) {
      return read_part(files, stored, part, row->spec.grows ? holding.within_rows(stored.shape[0]) : holding);
    };
    const bool sharded = row->is_sharded();
    const at::Tensor value = saved_part("value", sharded ? row->holding : row->holding.without_flat());
    if (parts == CheckpointParts::kEverything) {
      AXIAL_CHECK(value.scalar_type() == row->value.scalar_type(), kOp,
                  "'{}': parameter '{}' was saved in another precision; expected {}, got {}",
                  index.folder.string(), row->spec.name, name_of(ops::dtype_of(row->value, kOp)),
                  name_of(ops::dtype_of(value, kOp)));
    }
    parallel::fill_held(*row, value);
    if (parts == CheckpointParts::kValues) continue;
    std::map<std::string, at::Tensor> companions;
    for (const auto& [part, where] : stored.parts) {
      if (part == "value") continue;
      companions[part] = completed(*row, part, saved_part(part, row->holding).to(row->value.device()));
    }
    row->companions.clear();
    for (const auto& [part, values] : companions) row->set_companion(part, values);
  }
}

}  // namespace axial::train
