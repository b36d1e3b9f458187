// SPDX-License-Identifier: Apache-2.0
// Tells the kinds of model folders apart by the files in them.
#include "axial/train/load/load.h"

#include "axial/core/log/log.h"
#include "axial/models/common/parallelize.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/collectives/exchange.h"
#include "axial/parallel/replicas/replicas.h"
#include "axial/train/checkpoint/store.h"
#include "axial/train/hugging_face/hugging_face.h"
#include "axial/train/run_folder/run_folder.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "load";

LoadedModel describe(const CheckpointIndex& index, const models::ModelRegistry& registry) {
  LoadedModel out;
  out.model = registry.at(index.state.model_type).build(index.state.model_config);
  out.tokenizer = index.state.tokenizer;
  out.data = index.state.data;
  out.step = index.state.step;
  out.validation_loss = index.state.validation_loss;
  out.weights = parameter_readers(index);
  out.source = fmt::format("checkpoint '{}' (step {})", index.folder.string(), index.state.step);
  return out;
}

// Call it before the model's parameters get values.
void split(models::Model& model, const models::ModelRegistry& registry, const LoadOptions& options) {
  if (options.ranks == nullptr) return;
  parallel::MeshOptions parallel = options.parallel;
  parallel.sequence_regions = false;
  models::parallelize(model, registry, options.ranks->mesh(), parallel);
  parallel::partition_parameters(*model.parameters, options.ranks->mesh(), parallel.zero);
}

LoadedModel describe_foreign(const fs::path& path, HuggingFaceModel read) {
  LoadedModel out;
  out.model = std::move(read.model);
  out.tokenizer = std::move(read.tokenizer);
  out.weights = std::move(read.weights);
  out.source = fmt::format("Hugging Face folder '{}'", path.string());
  return out;
}

LoadedModel load_foreign(const fs::path& path, const models::ModelRegistry& registry,
                         const LoadOptions& options) {
  HuggingFaceModel read = open_hugging_face(path, registry);
  const at::ScalarType dtype = options.dtype.value_or(read.dtype);
  LoadedModel out = describe_foreign(path, std::move(read));
  split(out.model, registry, options);
  out.model.parameters->materialize(at::kCPU, dtype, /*seed=*/0, /*trains=*/false);
  parallel::fill_parameters(*out.model.parameters, out.weights);
  return out;
}

LoadedModel load_checkpoint(const CheckpointIndex& index, const models::ModelRegistry& registry,
                            const LoadOptions& options) {
  LoadedModel out = describe(index, registry);
  AXIAL_CHECK(!index.parameters.empty(), kOp, "'{}' has no parameters", index.folder.string());
  const DType stored = index.parameters.begin()->second.parts.at("value").dtype;
  split(out.model, registry, options);
  out.model.parameters->materialize(at::kCPU, options.dtype.value_or(ops::scalar_type_of(stored)),
                                    index.state.seed, /*trains=*/false);
  load_parameters(index, CheckpointParts::kValues, *out.model.parameters);
  return out;
}

// The best checkpoint when its weights are whole.
std::optional<CheckpointIndex> whole_best(const CheckpointStore& store) {
  auto best = store.best();
  if (!best) return std::nullopt;
  try {
    verify_checkpoint(*best, CheckpointParts::kValues);
    return best;
  } catch (const Error& e) {
    log()->warn("the best checkpoint, step {}, is damaged: {}; taking the newest whole one instead",
                best->state.step, e.what());
    return std::nullopt;
  }
}

// The verified index of the checkpoint that `path`, a run or a checkpoint folder, stands for.
CheckpointIndex choose(const fs::path& path, const LoadOptions& options) {
  if (!fs::is_directory(path / kCheckpointsFolder)) {
    CheckpointIndex named = read_checkpoint_index(path);
    verify_checkpoint(named, CheckpointParts::kValues);
    return named;
  }
  const CheckpointStore store(path / kCheckpointsFolder);
  if (options.which == WhichCheckpoint::kBest) {
    if (auto best = whole_best(store)) return std::move(*best);
  }
  auto newest = store.newest_good(CheckpointParts::kValues);
  AXIAL_CHECK(newest.has_value(), kOp, "'{}' has no checkpoint yet", (path / kCheckpointsFolder).string());
  return std::move(*newest);
}

// The first rank chooses and verifies for all: the others might find a newer one, or find it otherwise.
CheckpointIndex choose_for_all(const fs::path& path, const LoadOptions& options) {
  if (options.ranks == nullptr) return choose(path, options);
  const bool first = options.ranks->mesh().rank() == 0;
  std::optional<CheckpointIndex> chosen;
  parallel::together(
      [&] {
        if (first) chosen = choose(path, options);
      },
      options.ranks);
  const std::string mine = first ? chosen->folder.string() : "";
  const fs::path folder =
      parallel::exchange(mine, options.ranks, parallel::all_axes(options.ranks->mesh())).front();
  return first ? std::move(*chosen) : read_checkpoint_index(folder);
}

// The newest index that reads, whatever its files are like.
std::optional<CheckpointIndex> any_readable(const fs::path& path) {
  std::vector<fs::path> folders{path};
  for (const FoundCheckpoint& found : CheckpointStore(path / kCheckpointsFolder).list()) {
    folders.push_back(found.folder);
  }
  for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
    try {
      return read_checkpoint_index(*folder);
    } catch (const Error&) {
      continue;
    }
  }
  return std::nullopt;
}

enum class Kind { kCheckpoint, kHuggingFace };

Kind kind_of(const fs::path& path) {
  AXIAL_CHECK(fs::exists(path), kOp, "'{}' does not exist", path.string());
  if (fs::is_directory(path / kCheckpointsFolder) || fs::exists(path / "index.json"))
    return Kind::kCheckpoint;
  if (fs::exists(path / "config.json")) return Kind::kHuggingFace;
  fail(kOp,
       "'{}' is no model; expected a run folder (with {}/), a checkpoint folder (with index.json) or a "
       "Hugging Face folder (with config.json and model.safetensors)",
       path.string(), kCheckpointsFolder);
}

}  // namespace

LoadedModel load_model(const fs::path& path, const models::ModelRegistry& registry,
                       const LoadOptions& options) {
  const Kind kind = kind_of(path);
  LoadedModel out = kind == Kind::kCheckpoint
                        ? load_checkpoint(choose_for_all(path, options), registry, options)
                        : load_foreign(path, registry, options);
  out.weights.clear();
  out.ranks = options.ranks;
  return out;
}

LoadedModel describe_model(const fs::path& path, const models::ModelRegistry& registry,
                           const LoadOptions& options) {
  if (kind_of(path) == Kind::kHuggingFace) return describe_foreign(path, open_hugging_face(path, registry));
  try {
    return describe(choose_for_all(path, options), registry);
  } catch (const UnsupportedError&) {
    throw;  // of a newer format: its fields may mean something else
  } catch (const parallel::CollectiveError&) {
    throw;
  } catch (const Error& e) {
    const auto readable = any_readable(path);
    if (!readable) throw;
    LoadedModel out = describe(*readable, registry);
    out.damage = e.what();
    return out;
  }
}

}  // namespace axial::train
