// SPDX-License-Identifier: Apache-2.0
// Checkpoints: what a run needs to go on as if it had never stopped, and what inference needs of it.
//
// A checkpoint is a folder: safetensors shards (model-*.safetensors: values; optimizer-*.safetensors:
// companions) and index.json with the logical name, full shape and file of every tensor, the size and
// hash of every file, and the state of the run. Any layout of parameters can be filled from it, because a
// tensor is stored whole under its logical name. Folders appear complete or not at all (store.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/parameter_table/logical.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/train/safetensors/safetensors.h"

namespace axial::train {

/// The newest format that this build reads, and the one it writes.
inline constexpr int64_t kCheckpointFormatVersion = 1;

/// Everything of a run but its tensors.
struct RunState {
  std::string model_type;
  nlohmann::json model_config;
  nlohmann::json tokenizer;  ///< description from which data builds the tokenizer again; null: none
  std::string precision;     ///< fp64 | fp32 | bf16 | fp16, of the values
  uint64_t seed = 0;         ///< all random numbers are functions of it, the step and the row
  int64_t step = 0;          ///< steps done, skipped ones counted
  int64_t skipped_steps = 0;
  int64_t next_row = 0;                        ///< position in the endless stream of rows
  int64_t tokens = 0;                          ///< tokens trained on
  double seconds = 0;                          ///< spent in training
  nlohmann::json data;                         ///< what identifies the training rows; a resume compares it
  nlohmann::json optimizer;                    ///< scalars of the optimizer
  nlohmann::json loss_scaler;                  ///< state of the dynamic loss scale; null: none
  std::optional<double> validation_loss;       ///< of this checkpoint, when it was made
  std::optional<double> best_validation_loss;  ///< of the run so far
  int64_t best_step = 0;
};

/// Where a tensor lies.
struct StoredTensor {
  DType dtype = DType::kF32;
  std::string file;
  std::string key;  ///< its name in the file
};

/// A logical parameter: "value" and its companions.
struct StoredParameter {
  std::vector<int64_t> shape;
  std::map<std::string, StoredTensor> parts;
};

/// Content of index.json.
struct CheckpointIndex {
  std::filesystem::path folder;
  RunState state;
  std::map<std::string, StoredParameter> parameters;
  std::map<std::string, WrittenFile> files;  ///< name -> bytes, hash
};

/// Write the files of a checkpoint into an existing folder, each synced to disk. A shard is closed before it
/// would exceed `shard_bytes` (a larger tensor gets one of its own). Throws IoError (disk full) and leaves
/// what was written: call it through CheckpointStore. Gradients are not saved.
///
/// With several ranks each writes about an equal part of the bytes, of whole logical tensors: whoever holds
/// a piece of one sends it to its writer, a file's worth at a time; no rank ever has the whole model. All
/// call it, all throw where one fails; the first rank writes index.json, last.
void write_checkpoint(const std::filesystem::path& folder, const RunState& state,
                      const parallel::ParameterTable& parameters, int64_t shard_bytes,
                      parallel::Communicator* ranks = nullptr);

/// Read index.json. Throws UnsupportedError for a newer format (names both versions) and ValueError naming
/// the file for any damage, a flipped bit included.
CheckpointIndex read_checkpoint_index(const std::filesystem::path& folder);

/// What of a checkpoint is wanted.
enum class CheckpointParts {
  kValues,      ///< weights: inference
  kEverything,  ///< companions too: resume
};

/// Compare size and hash of every wanted file; throws ValueError naming the first damaged one.
void verify_checkpoint(const CheckpointIndex& index, CheckpointParts parts);

/// Throws ValueError naming the first keys that differ when the checkpoint is of another model.
void check_same_model(const CheckpointIndex& index, const std::string& model_type,
                      const nlohmann::json& model_config);

/// Fill a materialised table: values are cast to its dtype; with kEverything companions are replaced by
/// the saved ones and the dtype must be the saved one. Each row takes the part that it holds; rows of one
/// that grows which the checkpoint lacks keep their initial values, and companions what they have or zeros.
/// Throws ValueError for missing or left-over parameters and for shapes that differ. Verify first.
void load_parameters(const CheckpointIndex& index, CheckpointParts parts,
                     parallel::ParameterTable& parameters);

/// How each value of a checkpoint is read, in its stored dtype, when somebody asks for it. Verify first.
parallel::ParameterReaders parameter_readers(const CheckpointIndex& index);

/// Up to `limit` leaves that differ, as "path: first value, second value"; for error messages.
std::vector<std::string> json_differences(const nlohmann::json& first, const nlohmann::json& second,
                                          size_t limit);

}  // namespace axial::train
