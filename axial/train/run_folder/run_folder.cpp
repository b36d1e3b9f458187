// SPDX-License-Identifier: Apache-2.0
// Lock and files of a run folder.
#include "axial/train/run_folder/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "train";

bool belongs_to_a_run(const std::string& name) {
  return name == kRecipeFile || name == kMetricsFile || name == kCheckpointsFolder || name == "loss.svg" ||
         name.find(".tfevents.") != std::string::npos;
}

}  // namespace

RunFolder::RunFolder(fs::path path) : path_(std::move(path)) {
  for (const char* file : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    std::error_code unreadable;  // said below, where the folder is made
    AXIAL_CHECK(holds_a_run() || !fs::exists(path_ / file, unreadable), kOp,
                "'{}' is a Hugging Face model (it holds '{}'); expected a new folder or one of a run",
                path_.string(), file);
  }
  std::error_code error;
  fs::create_directories(path_, error);
  if (error) fail<IoError>(kOp, "cannot create run folder '{}': {}", path_.string(), error.message());
  const fs::path file = path_ / ".lock";
  lock_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) fail<IoError>(kOp, "cannot create '{}': {}", file.string(), std::strerror(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    ::close(lock_);
    if (reason != EWOULDBLOCK)
      fail<IoError>(kOp, "cannot lock '{}': {}", file.string(), std::strerror(reason));
    fail(kOp, "another process is training in '{}'; choose another folder or wait for it", path_.string());
  }
}

RunFolder RunFolder::of_first_rank(fs::path path) {
  RunFolder folder;
  folder.path_ = std::move(path);
  return folder;
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

// Closing releases the lock; the file stays for the next one.
RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

bool RunFolder::holds_a_run() const {
  std::error_code unreadable;
  return fs::exists(path_ / kRecipeFile, unreadable) || fs::exists(path_ / kCheckpointsFolder, unreadable);
}

std::string RunFolder::saved_recipe() const {
  return fs::exists(path_ / kRecipeFile) ? read_file(path_ / kRecipeFile) : "";
}

void RunFolder::save_recipe(std::string_view resolved) const {
  write_file_atomically(path_ / kRecipeFile, resolved);
}

void RunFolder::erase_run() const {
  std::vector<fs::path> doomed;
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (belongs_to_a_run(entry.path().filename().string())) doomed.push_back(entry.path());
  }
  for (const fs::path& item : doomed) fs::remove_all(item);
}

}  // namespace axial::train
