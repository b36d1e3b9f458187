// SPDX-License-Identifier: Apache-2.0
// The checkpoints of a run: step_00000100/, step_00000200/, ... in one folder. Saving is durable and all or
// nothing; a crash at any point leaves the older ones and at most a .tmp- folder. Called by the trainer,
// which holds the run's lock; readers need no lock.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "axial/train/checkpoint/checkpoint.h"

namespace axial::train {

/// What is kept and how it is cut.
struct StoreOptions {
  int64_t keep_last = 2;                   ///< newest checkpoints kept, besides the best; at least 1
  int64_t shard_bytes = int64_t{4} << 30;  ///< size limit of one file
};

/// One found checkpoint.
struct FoundCheckpoint {
  int64_t step = 0;
  std::filesystem::path folder;
};

/// See above. Nothing is cached: every call looks at the folder. With several ranks all make the same calls
/// to clean(), save() and newest_good(): all write, the first one decides and commits; the folder is one that
/// all of them see.
class CheckpointStore {
 public:
  explicit CheckpointStore(std::filesystem::path folder, StoreOptions options = {},
                           parallel::Communicator* ranks = nullptr);

  /// Remove what a killed process left (.tmp-*). Only under the run's lock.
  void clean();

  /// Write aside, sync, rename, and only then delete what need not be kept: all but the newest `keep_last`
  /// and the best by validation loss. A checkpoint of the same step is replaced, newer ones are removed. On
  /// IoError (disk full) the part written is removed, older checkpoints stay, and the error says so.
  std::filesystem::path save(const RunState& state, const parallel::ParameterTable& parameters);

  /// All that are there, oldest first; damaged ones included.
  std::vector<FoundCheckpoint> list() const;

  /// Newest checkpoint of which `parts` verify. Damaged newer ones are passed over with a warning that names
  /// the file. Absent when there is none at all; throws ValueError when all are damaged, UnsupportedError
  /// when one is of a newer format.
  std::optional<CheckpointIndex> newest_good(CheckpointParts parts = CheckpointParts::kEverything) const;

  /// The one with the smallest validation loss among those whose index reads; absent when none has one.
  std::optional<CheckpointIndex> best() const;

 private:
  bool is_first() const;
  std::optional<CheckpointIndex> find_newest_good(CheckpointParts parts) const;
  void prune(int64_t newest_step);
  void write_summary() const;

  std::filesystem::path folder_;
  StoreOptions options_;
  parallel::Communicator* ranks_ = nullptr;
};

}  // namespace axial::train
