// SPDX-License-Identifier: Apache-2.0
// The folder of one training run: recipe.yaml, metrics.jsonl, checkpoints/, and a lock that only one
// training can hold (flock: the kernel releases it when the process dies in whatever way).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace axial::train {

inline constexpr std::string_view kCheckpointsFolder = "checkpoints";
inline constexpr std::string_view kRecipeFile = "recipe.yaml";
inline constexpr std::string_view kMetricsFile = "metrics.jsonl";

/// Holds the lock while it lives.
class RunFolder {
 public:
  /// Create the folder if it is new and lock it. Throws ValueError when another process trains there, or the
  /// folder is a Hugging Face model without a run: the two would be taken for one.
  explicit RunFolder(std::filesystem::path path);
  /// The same folder for another rank of the run whose first rank holds the lock.
  static RunFolder of_first_rank(std::filesystem::path path);
  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&&) = delete;
  ~RunFolder();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / kCheckpointsFolder; }
  /// Does it hold a run already (a recipe or checkpoints)?
  bool holds_a_run() const;
  /// The saved recipe, or "" when there is none.
  std::string saved_recipe() const;
  void save_recipe(std::string_view resolved) const;
  /// Delete recipe, metrics, event files and checkpoints of the run in it; other files stay.
  void erase_run() const;

 private:
  RunFolder() = default;
  std::filesystem::path path_;
  int lock_ = -1;
};

}  // namespace axial::train
