// SPDX-License-Identifier: Apache-2.0
// A folder of its own for one test, removed afterwards. For tests that write files.
#pragma once

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <string_view>

namespace axial::testing {

/// Created empty; removed with everything in it by the destructor. Unique per process and object.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(std::string_view name = "axial_test") {
    static std::atomic<int> count{0};
    path_ = std::filesystem::temp_directory_path() /
            (std::string(name) + "_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace axial::testing
