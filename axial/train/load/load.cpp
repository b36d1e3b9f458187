// SPDX-License-Identifier: Apache-2.0
// Tells the kinds of model folders apart by the files in them.
#include "axial/train/load/load.h"

#include "axial/core/log/log.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/train/checkpoint/store.h"
#include "axial/train/hugging_face/hugging_face.h"
#include "axial/train/run_folder/run_folder.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "load";

LoadedModel load_checkpoint(const CheckpointIndex& index, const models::ModelRegistry& registry,
                            const LoadOptions& options) {
  verify_checkpoint(index, CheckpointParts::kValues);
  LoadedModel out;
  out.model = registry.at(index.state.model_type).build(index.state.model_config);
  AXIAL_CHECK(!index.parameters.empty(), kOp, "'{}' has no parameters", index.folder.string());
  const DType stored = index.parameters.begin()->second.parts.at("value").dtype;
  out.model.parameters->materialize(at::kCPU, options.dtype.value_or(ops::scalar_type_of(stored)),
                                    index.state.seed);
  load_parameters(index, CheckpointParts::kValues, *out.model.parameters);
  out.tokenizer = index.state.tokenizer;
  out.step = index.state.step;
  out.validation_loss = index.state.validation_loss;
  out.source = fmt::format("checkpoint '{}' (step {})", index.folder.string(), index.state.step);
  return out;
}

CheckpointIndex choose(const fs::path& checkpoints, const LoadOptions& options) {
  const CheckpointStore store(checkpoints);
  if (options.which == WhichCheckpoint::kBest) {
    if (auto best = store.best()) return std::move(*best);
  }
  auto newest = store.newest_good();
  AXIAL_CHECK(newest.has_value(), kOp, "'{}' has no checkpoint yet", checkpoints.string());
  return std::move(*newest);
}

void drop_training_state(parallel::ParameterTable& parameters) {
  for (const auto& row : parameters.rows()) row->companions.clear();
}

}  // namespace

LoadedModel load_model(const fs::path& path, const models::ModelRegistry& registry,
                       const LoadOptions& options) {
  AXIAL_CHECK(fs::exists(path), kOp, "'{}' does not exist", path.string());
  LoadedModel out;
  if (fs::is_directory(path / kCheckpointsFolder)) {
    out = load_checkpoint(choose(path / kCheckpointsFolder, options), registry, options);
  } else if (fs::exists(path / "index.json")) {
    out = load_checkpoint(read_checkpoint_index(path), registry, options);
  } else if (fs::exists(path / "config.json")) {
    HuggingFaceModel read = read_hugging_face(path, registry, options.dtype);
    out.model = std::move(read.model);
    out.tokenizer = std::move(read.tokenizer);
    out.source = fmt::format("Hugging Face folder '{}'", path.string());
  } else {
    fail(kOp,
         "'{}' is no model; expected a run folder (with {}/), a checkpoint folder (with index.json) or a "
         "Hugging "
         "Face folder (with config.json and model.safetensors)",
         path.string(), kCheckpointsFolder);
  }
  drop_training_state(*out.model.parameters);
  return out;
}

}  // namespace axial::train
