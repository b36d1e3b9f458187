// SPDX-License-Identifier: Apache-2.0
// Finding, building and locking cache files of token_cache.h.
#include "axial/data/token_cache/token_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "axial/core/progress/progress.h"

namespace axial::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "axial token cache 1";
constexpr size_t kNamesKept = 8;
constexpr double kQuiet_s = 5;  // before a line of progress

class FileSink final : public StoreSink {
 public:
  explicit FileSink(const fs::path& path) : writer_(path) {}
  void write(const void* data, size_t bytes) override { writer_.write(data, bytes); }
  void finish() { writer_.finish(); }

 private:
  FileWriter writer_;
};

class MemorySink final : public StoreSink {
 public:
  void write(const void* data, size_t bytes) override {
    const auto* at = static_cast<const std::byte*>(data);
    image_.insert(image_.end(), at, at + bytes);
  }
  std::vector<std::byte> take() { return std::move(image_); }

 private:
  std::vector<std::byte> image_;
};

// Held while a cache file is built, so that others wait instead of doing the same work. Only a courtesy:
// where locks do not work, builders write files of their own and the last rename wins with equal content.
class BuildLock {
 public:
  explicit BuildLock(fs::path path) : path_(std::move(path)) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ >= 0) ::flock(fd_, LOCK_EX);
  }
  BuildLock(const BuildLock&) = delete;
  BuildLock& operator=(const BuildLock&) = delete;
  ~BuildLock() {
    // A process that waits on the removed file finds the finished cache when it gets the lock.
    if (fd_ >= 0) {
      ::unlink(path_.c_str());
      ::close(fd_);
    }
  }

 private:
  fs::path path_;
  int fd_ = -1;
};

int64_t bytes_of(const fs::path& file) {
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  return error ? 0 : static_cast<int64_t>(bytes);
}

int64_t bytes_of(const std::vector<fs::path>& files) {
  int64_t total = 0;
  for (const fs::path& file : files) total += bytes_of(file);
  return total;
}

void build(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const std::string& key,
           StoreSink& sink) {
  TokenStoreWriter writer(sink, key, tokenizer.vocab_size());
  StoreCounts counts;
  std::vector<int32_t> tokens;
  const FastaOptions options{tokenizer.reads_nucleotides() ? Alphabet::kNucleotide : Alphabet::kAny};
  Progress progress({.label = "read FASTA", .unit = "bytes", .total = bytes_of(files), .quiet_s = kQuiet_s});
  int64_t before = 0;
  for (size_t f = 0; f < files.size(); ++f) {
    const auto on_record = [&](const FastaRecord& record) {
      if (tokenizer.encode(record.sequence, tokens, counts.encode)) {
        const uint64_t hash = XXH3_64bits(record.sequence.data(), record.sequence.size());
        writer.add(record.name, hash, static_cast<int64_t>(f), tokens);
      } else if (counts.too_short_names.size() < kNamesKept) {
        counts.too_short_names.emplace_back(record.name);
      }
    };
    const FastaCounts seen =
        read_fasta(files[f], options, on_record, [&](int64_t stored) { progress.update(before + stored); });
    before += bytes_of(files[f]);
    counts.fasta.records += seen.records;
    counts.fasta.bases += seen.bases;
    counts.fasta.gaps += seen.gaps;
    counts.fasta.unnamed += seen.unnamed;
    counts.fasta.empty += seen.empty;
    for (const std::string& name : seen.empty_names) {
      if (counts.fasta.empty_names.size() < kNamesKept) counts.fasta.empty_names.push_back(name);
    }
  }
  AXIAL_CHECK(
      counts.encode.records > 0, "token_cache",
      "no record of {} file(s) has a token ({} are empty, {} shorter than one token); the first is '{}'",
      files.size(), counts.fasta.empty, counts.encode.too_short, files[0].string());
  writer.finish(std::move(counts));
  progress.finish();
}

std::string key_of(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const fs::path& folder) {
  std::string text = fmt::format("{}\n{}\n", kFormat, tokenizer.to_json().dump());
  Progress progress({.label = "hash files", .unit = "bytes", .total = bytes_of(files), .quiet_s = kQuiet_s});
  int64_t before = 0;  // known files count at once
  for (const fs::path& file : files) {
    text += content_hash_of_file(file, folder, [&](int64_t bytes) { progress.advance(bytes); }) + "\n";
    progress.update(before += bytes_of(file));
  }
  progress.finish();
  return hash_bytes(std::as_bytes(std::span(text.data(), text.size())));
}

// The cache at `path` when it is there and sound; a warning when it is there and not.
std::shared_ptr<const TokenStore> open_existing(const fs::path& path, const std::string& key,
                                                std::vector<std::string>& warnings) {
  std::error_code error;
  if (!fs::exists(path, error)) return nullptr;
  try {
    return std::make_shared<const TokenStore>(path, key);
  } catch (const Error& reason) {
    warnings.push_back(fmt::format("cache '{}' is built anew: {}", path.string(), reason.what()));
    return nullptr;
  }
}

// A file of our own in the folder, or nothing when the folder cannot be written.
std::optional<fs::path> temporary_in(const fs::path& folder, const std::string& key, std::string& reason) {
  static std::atomic<int> counter{0};
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const fs::path path = folder / fmt::format("{}.tmp-{}-{}-{}", key, host.data(), ::getpid(), counter++);
  std::error_code error;
  fs::create_directories(folder, error);
  try {
    FileWriter probe(path);
    probe.finish();
    return path;
  } catch (const IoError& failure) {
    reason = failure.what();
    return std::nullopt;
  }
}

// Whether a builder of the cache `key` is at work; the lock of one that was killed is removed.
bool is_being_built(const fs::path& folder, const std::string& key) {
  const int fd = ::open((folder / (key + ".lock")).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  const bool busy = ::flock(fd, LOCK_EX | LOCK_NB) != 0;
  if (!busy) ::unlink((folder / (key + ".lock")).c_str());
  ::close(fd);
  return busy;
}

// What builders left behind that were killed: of this cache, whose lock we hold, and of any that no one
// builds.
void remove_left_over(const fs::path& folder, const std::string& key, const fs::path& own) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    const size_t dot = name.find(".tmp-");
    if (dot == std::string::npos || at->path() == own) continue;
    const std::string other = name.substr(0, dot);
    // A builder of another cache that is just starting may hold no lock yet, but its file is young.
    const auto age = fs::file_time_type::clock::now() - fs::last_write_time(at->path(), error);
    const bool old = !error && age > std::chrono::minutes(10);
    if (other == key || (old && !is_being_built(folder, other))) ::unlink(at->path().c_str());
  }
}

// Build in `folder` unless another process does so first; null when the folder cannot be written.
std::shared_ptr<const TokenStore> build_in(const fs::path& folder, const std::vector<fs::path>& files,
                                           const Tokenizer& tokenizer, const std::string& key,
                                           OpenedStore& opened) {
  std::string reason;
  const std::optional<fs::path> temporary = temporary_in(folder, key, reason);
  if (!temporary) {
    opened.warnings.push_back(
        fmt::format("cache folder '{}' cannot be written: {}", folder.string(), reason));
    return nullptr;
  }
  struct Remove {
    fs::path path;
    ~Remove() { ::unlink(path.c_str()); }
  } remove{*temporary};
  const fs::path path = folder / (key + ".tokens");
  const BuildLock lock(folder / (key + ".lock"));
  remove_left_over(folder, key, *temporary);
  std::vector<std::string> known;  // a damaged file was reported before
  opened.path = path;
  if (auto store = open_existing(path, key, known)) return store;
  FileSink sink(*temporary);
  build(files, tokenizer, key, sink);
  sink.finish();
  rename_durably(*temporary, path);
  opened.built = true;
  return std::make_shared<const TokenStore>(path, key);
}

}  // namespace

fs::path cache_folder(const std::string& cache) {
  if (cache == "none") return {};
  if (!cache.empty()) return cache;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) return fs::path(xdg) / "axial";
  if (const char* home = std::getenv("HOME"); home && *home) return fs::path(home) / ".cache" / "axial";
  return fs::temp_directory_path() / fmt::format("axial-cache-{}", ::getuid());
}

OpenedStore open_token_store(const std::vector<fs::path>& files, const Tokenizer& tokenizer,
                             const std::string& cache) {
  AXIAL_CHECK(!files.empty(), "token_cache", "no input file; expected at least one");
  OpenedStore opened;
  const fs::path folder = cache_folder(cache);
  const std::string key = key_of(files, tokenizer, folder);
  if (folder.empty()) {
    MemorySink sink;
    build(files, tokenizer, key, sink);
    opened.built = true;
    opened.store = std::make_shared<const TokenStore>(sink.take(), key);
    return opened;
  }
  const fs::path spare = fs::temp_directory_path() / fmt::format("axial-cache-{}", ::getuid());
  for (const fs::path& place : {folder, spare}) {
    opened.path = place / (key + ".tokens");
    opened.store = open_existing(opened.path, key, opened.warnings);
    if (!opened.store) opened.store = build_in(place, files, tokenizer, key, opened);
    if (opened.store) return opened;
  }
  fail<IoError>("token_cache",
                "no folder for the cache: {}; set cache to a folder that can be written, or to none",
                fmt::join(opened.warnings, "; "));
}

}  // namespace axial::data
