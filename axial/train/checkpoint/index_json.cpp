// SPDX-License-Identifier: Apache-2.0
// JSON form of CheckpointIndex. Format and hash are looked at first and stay as they are in every version,
// so that a newer checkpoint is told from a damaged one.
#include "axial/train/checkpoint/index_json.h"

#include <span>

namespace axial::train::detail {
namespace {

using nlohmann::json;
constexpr std::string_view kOp = "checkpoint";

json optional_number(const std::optional<double>& value) { return value ? json(*value) : json(nullptr); }

std::optional<double> to_optional(const json& value) {
  return value.is_null() ? std::nullopt : std::optional<double>(value.get<double>());
}

json state_to_json(const RunState& s) {
  return {{"model", {{"type", s.model_type}, {"config", s.model_config}}},
          {"tokenizer", s.tokenizer},
          {"precision", s.precision},
          {"seed", s.seed},
          {"step", s.step},
          {"skipped_steps", s.skipped_steps},
          {"next_row", s.next_row},
          {"tokens", s.tokens},
          {"seconds", s.seconds},
          {"data", s.data},
          {"optimizer", s.optimizer},
          {"loss_scaler", s.loss_scaler},
          {"validation_loss", optional_number(s.validation_loss)},
          {"best_validation_loss", optional_number(s.best_validation_loss)},
          {"best_step", s.best_step}};
}

RunState state_from_json(const json& j) {
  RunState s;
  s.model_type = j.at("model").at("type").get<std::string>();
  s.model_config = j.at("model").at("config");
  s.tokenizer = j.at("tokenizer");
  s.precision = j.at("precision").get<std::string>();
  s.seed = j.at("seed").get<uint64_t>();
  s.step = j.at("step").get<int64_t>();
  s.skipped_steps = j.at("skipped_steps").get<int64_t>();
  s.next_row = j.at("next_row").get<int64_t>();
  s.tokens = j.at("tokens").get<int64_t>();
  s.seconds = j.at("seconds").get<double>();
  s.data = j.at("data");
  s.optimizer = j.at("optimizer");
  s.loss_scaler = j.at("loss_scaler");
  s.validation_loss = to_optional(j.at("validation_loss"));
  s.best_validation_loss = to_optional(j.at("best_validation_loss"));
  s.best_step = j.at("best_step").get<int64_t>();
  return s;
}

json parameters_to_json(const CheckpointIndex& index) {
  json out = json::object();
  for (const auto& [name, parameter] : index.parameters) {
    json parts = json::object();
    for (const auto& [part, stored] : parameter.parts) {
      parts[part] = {{"dtype", name_of(stored.dtype)}, {"file", stored.file}, {"key", stored.key}};
    }
    out[name] = {{"shape", parameter.shape}, {"parts", parts}};
  }
  return out;
}

void parameters_from_json(const json& j, CheckpointIndex& index) {
  for (const auto& [name, item] : j.items()) {
    StoredParameter& parameter = index.parameters[name];
    parameter.shape = item.at("shape").get<std::vector<int64_t>>();
    for (const auto& [part, stored] : item.at("parts").items()) {
      parameter.parts[part] = {dtype_from_name(stored.at("dtype").get<std::string>()),
                               stored.at("file").get<std::string>(), stored.at("key").get<std::string>()};
    }
  }
}

// nlohmann sorts keys and prints doubles with the digits that give them back, so the text of a parsed
// document is the text that was hashed.
std::string hash_of(const json& root) {
  const std::string text = root.dump();
  return hash_bytes(std::as_bytes(std::span(text)));
}

void check_names_stay_inside(const CheckpointIndex& index, const std::filesystem::path& path) {
  for (const auto& [name, file] : index.files) {
    AXIAL_CHECK(!name.empty() && name.find('/') == std::string::npos && name != "..", kOp,
                "'{}' names a file outside of the checkpoint: '{}'", path.string(), name);
  }
  for (const auto& [name, parameter] : index.parameters) {
    AXIAL_CHECK(parameter.parts.contains("value"), kOp, "'{}' has no value for '{}'", path.string(), name);
    for (const auto& [part, stored] : parameter.parts) {
      AXIAL_CHECK(index.files.contains(stored.file), kOp, "'{}' does not list '{}', the file of '{}'",
                  path.string(), stored.file, name);
    }
  }
}

}  // namespace

std::string to_text(const CheckpointIndex& index) {
  json files = json::object();
  for (const auto& [name, file] : index.files) files[name] = {{"bytes", file.bytes}, {"hash", file.hash}};
  json root = {{"format", "axial-checkpoint"},
               {"format_version", kCheckpointFormatVersion},
               {"state", state_to_json(index.state)},
               {"parameters", parameters_to_json(index)},
               {"files", files}};
  root["hash"] = hash_of(root);
  return root.dump(1) + "\n";
}

CheckpointIndex from_text(std::string_view text, const std::filesystem::path& path) {
  try {
    json root = json::parse(text.begin(), text.end());
    AXIAL_CHECK(root.is_object() && root.value("format", "") == "axial-checkpoint", kOp,
                "'{}' is not the index of a checkpoint", path.string());
    const std::string stated = root.at("hash").get<std::string>();
    root.erase("hash");
    AXIAL_CHECK(stated == hash_of(root), kOp, "'{}' is damaged: its content does not have the stated hash",
                path.string());
    const auto version = root.at("format_version").get<int64_t>();
    if (version > kCheckpointFormatVersion) {
      fail<UnsupportedError>(kOp, "'{}' has format version {}; this build reads versions up to {}",
                             path.string(), version, kCheckpointFormatVersion);
    }
    CheckpointIndex index;
    index.folder = path.parent_path();
    index.state = state_from_json(root.at("state"));
    parameters_from_json(root.at("parameters"), index);
    for (const auto& [name, file] : root.at("files").items()) {
      index.files[name] = {file.at("bytes").get<int64_t>(), file.at("hash").get<std::string>()};
    }
    check_names_stay_inside(index, path);
    return index;
  } catch (const json::exception& e) {
    fail(kOp, "'{}' is damaged: {}", path.string(), e.what());
  }
}

}  // namespace axial::train::detail
