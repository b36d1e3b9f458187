// SPDX-License-Identifier: Apache-2.0
// The side index from a file's identity (path, device, inode, size, mtime, ctime) to its content hash.
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/data/token_cache/token_cache.h"

namespace axial::data {
namespace {

namespace fs = std::filesystem;

struct Identity {
  std::string text;
  int64_t changed_s = 0;  // later of mtime and ctime, in seconds
};

Identity identity_of(const fs::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) {
    fail<IoError>("token_cache", "cannot read '{}': {}", file.string(), std::strerror(errno));
  }
  std::error_code error;
  const fs::path real = fs::canonical(file, error);
  // ctime changes with every write and cannot be set back, unlike mtime.
  return {fmt::format("1 {} {} {} {}.{:09d} {}.{:09d} {}", info.st_dev, info.st_ino, info.st_size,
                      info.st_mtim.tv_sec, info.st_mtim.tv_nsec, info.st_ctim.tv_sec, info.st_ctim.tv_nsec,
                      real.string()),
          std::max<int64_t>(info.st_mtim.tv_sec, info.st_ctim.tv_sec)};
}

}  // namespace

std::string content_hash_of_file(const fs::path& file, const fs::path& folder,
                                 const std::function<void(int64_t)>& on_bytes) {
  if (folder.empty()) return hash_file(file, on_bytes);
  const Identity before = identity_of(file);
  const std::string name = hash_bytes(std::as_bytes(std::span(before.text.data(), before.text.size())));
  const fs::path note = folder / "content_hashes" / name;
  constexpr size_t kHashDigits = 32;
  std::error_code error;
  if (fs::is_regular_file(note, error)) {
    try {
      const std::string text = read_file(note);
      if (text.size() == kHashDigits + 1 + before.text.size() &&
          text.substr(kHashDigits + 1) == before.text) {
        return text.substr(0, kHashDigits);
      }
    } catch (const IoError&) {
      // An unreadable note is as good as none.
    }
  }
  const std::string hash = hash_file(file, on_bytes);
  const Identity after = identity_of(file);
  if (after.text == before.text && std::time(nullptr) - after.changed_s > 2) {
    try {
      fs::create_directories(note.parent_path(), error);
      write_file_atomically(note, fmt::format("{} {}", hash, before.text));
    } catch (const IoError&) {
      // A read-only folder only costs the next start some time.
    }
  }
  return hash;
}

}  // namespace axial::data
