// SPDX-License-Identifier: Apache-2.0
// FASTA files + tokenizer -> TokenStore, through a cache folder: parsed once, mapped afterwards.
// open_genome_data and the commands that score or embed call it. No torch.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "axial/data/token_cache/token_store.h"

namespace axial::data {

/// What opening gave.
struct OpenedStore {
  std::shared_ptr<const TokenStore> store;
  std::filesystem::path path;         ///< of the cache file; empty when held in memory
  bool built = false;                 ///< files were parsed now
  std::vector<std::string> warnings;  ///< a damaged cache, another folder than asked for
};

/// Tokens of all records of `files`, in the order of files and records.
///
/// `cache` is a folder, "" for $XDG_CACHE_HOME/axial or ~/.cache/axial, or "none" for memory only.
/// The file is named by an XXH3-128 of format version, tokenizer description and the contents of the files:
/// a changed input gets another cache, a moved one keeps its. Unpacked, a cache takes 1 byte per token for
/// vocabularies up to 256 plus 28 bytes and the name per record. Contents are hashed again only when a
/// file's (path, device, inode, size, mtime, ctime) changed.
/// A damaged or foreign cache file is built anew with a warning; a folder that cannot be written is replaced
/// by one under the system's temporary folder with a warning. Several processes may open the same files:
/// one builds, the others wait for it, and a file appears whole or not at all.
/// Throws as read_fasta, and ValueError when no record has a token.
OpenedStore open_token_store(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                             const std::string& cache);

/// The folder that `cache` stands for; empty for "none".
std::filesystem::path cache_folder(const std::string& cache);

/// XXH3-128 of a file's stored bytes, remembered in `folder` (empty: nothing is remembered). A file changed
/// in the last two seconds is not remembered: its times could not tell a further change. `on_bytes`
/// (optional) is told of each piece that had to be read.
std::string content_hash_of_file(const std::filesystem::path& file, const std::filesystem::path& folder,
                                 const std::function<void(int64_t)>& on_bytes = nullptr);

}  // namespace axial::data
