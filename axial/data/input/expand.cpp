// SPDX-License-Identifier: Apache-2.0
// What a user typed -> files: literal names, folders, patterns (glob), with errors that help.
#include <glob.h>

#include <algorithm>
#include <array>
#include <set>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"
#include "axial/data/input/input.h"

namespace axial::data {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 10> kFastaSuffixes{".fa",  ".fasta", ".fna", ".ffn",  ".fas",
                                                          ".fsa", ".frn",   ".faa", ".mpfa", ".seq"};
constexpr std::array<std::string_view, 4> kPackedSuffixes{".gz", ".zst", ".zstd", ".bgz"};

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

[[noreturn]] void fail_missing(const fs::path& path) {
  std::error_code error;
  if (fs::is_symlink(path, error)) {
    const fs::path target = fs::read_symlink(path, error);
    fail("input", "no such file '{}': it is a symbolic link to '{}', which leads nowhere", path.string(),
         target.string());
  }
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, error)) {
    const fs::path above = folder.has_parent_path() ? folder.parent_path() : fs::path(".");
    fail("input", "no such file '{}': there is no folder '{}'{}", path.string(), folder.string(),
         did_you_mean(folder.filename().string(), names_in(above)));
  }
  fail("input", "no such file '{}'{}", path.string(),
       did_you_mean(path.filename().string(), names_in(folder)));
}

std::vector<fs::path> files_of_folder(const fs::path& folder) {
  std::vector<fs::path> files;
  int64_t others = 0;
  for (const std::string& name : names_in(folder)) {
    std::error_code error;
    const fs::path path = folder / name;
    if (!fs::is_regular_file(path, error) || name.front() == '.') continue;
    if (has_fasta_name(path)) {
      files.push_back(path);
    } else {
      ++others;
    }
  }
  if (files.empty()) {
    fail("input",
         "folder '{}' has no FASTA file; expected names ending in {} (or these with {}), got {} other files",
         folder.string(), fmt::join(kFastaSuffixes, " "), fmt::join(kPackedSuffixes, " "), others);
  }
  return files;
}

std::vector<fs::path> files_of_pattern(const std::string& pattern) {
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_TILDE, nullptr, &found);
  std::vector<fs::path> files;
  std::error_code error;
  for (size_t i = 0; i < found.gl_pathc; ++i) {
    if (fs::is_regular_file(found.gl_pathv[i], error)) files.emplace_back(found.gl_pathv[i]);
  }
  ::globfree(&found);
  if (result == GLOB_ABORTED || result == GLOB_NOSPACE) {
    fail<IoError>("input", "cannot look up the pattern '{}'", pattern);
  }
  if (files.empty()) fail("input", "no file matches the pattern '{}'", pattern);
  return files;
}

std::vector<fs::path> expand_one(const std::string& text) {
  AXIAL_CHECK(!text.empty(), "input", "an input name is empty; expected a file, a folder or a pattern");
  std::error_code error;
  const fs::file_status status = fs::status(text, error);
  if (fs::is_directory(status)) return files_of_folder(text);
  if (fs::is_regular_file(status)) return {text};
  if (fs::exists(status)) {
    fail("input", "'{}' is neither a file nor a folder; inputs are read more than once, save pipes to a file",
         text);
  }
  if (text.find_first_of("*?[") != std::string::npos || text.starts_with("~")) return files_of_pattern(text);
  fail_missing(text);
}

}  // namespace

bool has_fasta_name(const fs::path& path) {
  std::string lower = path.filename().string();
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  std::string_view name = lower;
  for (const std::string_view packed : kPackedSuffixes) {
    if (name.ends_with(packed)) {
      name.remove_suffix(packed.size());
      break;
    }
  }
  return std::any_of(kFastaSuffixes.begin(), kFastaSuffixes.end(),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

InputFiles expand_inputs(const std::vector<std::string>& patterns) {
  AXIAL_CHECK(!patterns.empty(), "input", "no input given; expected at least one file, folder or pattern");
  InputFiles result;
  std::set<fs::path> seen;
  for (const std::string& pattern : patterns) {
    for (fs::path& file : expand_one(pattern)) {
      std::error_code error;
      const fs::path real = fs::canonical(file, error);
      if (seen.insert(error ? file : real).second) {
        result.files.push_back(std::move(file));
      } else {
        result.repeated.push_back(file.string());
      }
    }
  }
  return result;
}

}  // namespace axial::data
