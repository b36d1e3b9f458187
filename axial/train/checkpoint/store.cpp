// SPDX-License-Identifier: Apache-2.0
// Durable saving, pruning and scanning of checkpoints. Names starting with .tmp- are never looked at by
// readers, so a folder is renamed to one before it is taken apart.
#include "axial/train/checkpoint/store.h"

#include <algorithm>
#include <charconv>
#include <functional>

#include "axial/core/log/log.h"
#include "axial/parallel/collectives/exchange.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "checkpoint";
constexpr std::string_view kPrefix = "step_";
constexpr std::string_view kTemporary = ".tmp-";

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const char* first = name.data() + kPrefix.size();
  const char* last = name.data() + name.size();
  int64_t step = 0;
  const auto [end, error] = std::from_chars(first, last, step);
  if (error != std::errc{} || end != last || step < 0) return std::nullopt;
  return step;
}

void remove_durably(const fs::path& folder, const fs::path& aside) {
  rename_durably(folder, aside);
  fs::remove_all(aside);
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path folder, StoreOptions options, parallel::Communicator* ranks)
    : folder_(std::move(folder)), options_(options), ranks_(ranks) {
  AXIAL_CHECK(options_.keep_last >= 1, kOp, "keep_last must be at least 1; got {}", options_.keep_last);
}

bool CheckpointStore::is_first() const { return ranks_ == nullptr || ranks_->mesh().rank() == 0; }

void CheckpointStore::clean() {
  if (!is_first() || !fs::exists(folder_)) return;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (entry.path().filename().string().starts_with(kTemporary)) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) {
    log()->info("removing '{}', left by an interrupted save", path.string());
    fs::remove_all(path);
  }
}

fs::path CheckpointStore::save(const RunState& state, const parallel::ParameterTable& parameters) {
  const std::string name = fmt::format("{}{:08}", kPrefix, state.step);
  const fs::path temporary = folder_ / fmt::format("{}{}", kTemporary, name);
  const fs::path target = folder_ / name;
  const auto as_first = [&](const std::function<void()>& work) {
    parallel::together(
        [&] {
          if (is_first()) work();
        },
        ranks_);
  };
  try {
    as_first([&] {
      fs::remove_all(temporary);
      fs::create_directories(temporary);
    });
    write_checkpoint(temporary, state, parameters, options_.shard_bytes, ranks_);
    as_first([&] {
      sync_to_disk(temporary);
      if (fs::exists(target)) remove_durably(target, folder_ / fmt::format("{}old-{}", kTemporary, name));
      rename_durably(temporary, target);
    });
  } catch (const parallel::CollectiveError&) {
    throw;
  } catch (const std::exception& e) {
    std::error_code ignored;
    if (is_first()) fs::remove_all(temporary, ignored);
    fail<IoError>(kOp, "step {} could not be saved in '{}': {} (older checkpoints are untouched)", state.step,
                  folder_.string(), e.what());
  }
  as_first([&] {
    prune(state.step);
    write_summary();
  });
  return target;
}

std::vector<FoundCheckpoint> CheckpointStore::list() const {
  std::vector<FoundCheckpoint> found;
  if (!fs::is_directory(folder_)) return found;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && entry.is_directory()) found.push_back({*step, entry.path()});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return found;
}

std::optional<CheckpointIndex> CheckpointStore::newest_good(CheckpointParts parts) const {
  std::optional<CheckpointIndex> found;
  parallel::together(
      [&] {
        if (is_first()) found = find_newest_good(parts);
      },
      ranks_);
  if (ranks_ == nullptr) return found;
  const std::string folder =
      exchange(found ? found->folder.string() : "", ranks_, all_axes(ranks_->mesh()))[0];
  if (!is_first() && !folder.empty()) found = read_checkpoint_index(folder);  // verified by the first rank
  return found;
}

std::optional<CheckpointIndex> CheckpointStore::find_newest_good(CheckpointParts parts) const {
  std::vector<FoundCheckpoint> found = list();
  for (; !found.empty(); found.pop_back()) {
    try {
      CheckpointIndex index = read_checkpoint_index(found.back().folder);
      verify_checkpoint(index, parts);
      return index;
    } catch (const UnsupportedError&) {
      throw;  // whole, but of a newer build: going back would lose work
    } catch (const Error& e) {
      if (found.size() == 1) {
        fail(kOp, "no checkpoint in '{}' is usable; the oldest: {}", folder_.string(), e.what());
      }
      log()->warn("{}; going back to the previous checkpoint, step {}", e.what(),
                  found[found.size() - 2].step);
    }
  }
  return std::nullopt;
}

std::optional<CheckpointIndex> CheckpointStore::best() const {
  std::optional<CheckpointIndex> best;
  for (const FoundCheckpoint& found : list()) {
    try {
      CheckpointIndex index = read_checkpoint_index(found.folder);
      const auto& loss = index.state.validation_loss;
      if (loss && (!best || *loss < *best->state.validation_loss)) best = std::move(index);
    } catch (const Error& e) {
      log()->warn("passed over while looking for the best checkpoint: {}", e.what());
    }
  }
  return best;
}

// A newer checkpoint than the one just written is one that a resume passed over as damaged.
void CheckpointStore::prune(int64_t newest_step) {
  std::vector<FoundCheckpoint> found = list();
  for (; found.back().step > newest_step; found.pop_back()) {
    remove_durably(found.back().folder,
                   folder_ / fmt::format("{}damaged-{:08}", kTemporary, found.back().step));
  }
  const auto keep = static_cast<size_t>(options_.keep_last);
  if (found.size() <= keep) return;
  const auto kept_best = best();
  found.resize(found.size() - keep);
  for (const FoundCheckpoint& old : found) {
    if (kept_best && old.folder == kept_best->folder) continue;
    remove_durably(old.folder, folder_ / fmt::format("{}delete-{:08}", kTemporary, old.step));
  }
}

// For people and tools; readers of this program scan the folders, which cannot disagree with themselves.
void CheckpointStore::write_summary() const {
  nlohmann::json rows = nlohmann::json::array();
  const auto found = list();
  const auto kept_best = best();
  for (const FoundCheckpoint& item : found) rows.push_back(item.folder.filename().string());
  const nlohmann::json summary = {
      {"checkpoints", rows},
      {"last", found.empty() ? nlohmann::json() : nlohmann::json(found.back().folder.filename().string())},
      {"best", kept_best ? nlohmann::json(kept_best->folder.filename().string()) : nlohmann::json()}};
  write_file_atomically(folder_ / "checkpoints.json", summary.dump(1) + "\n");
}

}  // namespace axial::train
