// SPDX-License-Identifier: Apache-2.0
// Bytes of input files: plain, gzip or zstd by their first bytes, and the expansion of what a user typed
// (files, folders, patterns) into files. Readers (fasta) and the token cache call it. No torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace axial::data {

/// How the bytes of a file are stored.
enum class Compression { kNone, kGzip, kZstd };

/// The unpacked bytes of one file, read forwards.
///
/// The format follows from the first bytes, never from the name. Several gzip members or zstd frames in a
/// row read as one stream; zeros after the last gzip member are padding. Memory: about 1 MiB, and for zstd
/// the window that the file asks for (at most 2 GiB).
/// Throws IoError naming the file: it cannot be opened or read, it ends inside a member or frame, its
/// checksum or structure is wrong, other bytes follow, or it is packed with bzip2, xz, zip or lz4.
class InputStream {
 public:
  explicit InputStream(const std::filesystem::path& path);
  InputStream(InputStream&&) noexcept;
  InputStream& operator=(InputStream&&) noexcept;
  ~InputStream();

  /// Fill the buffer as far as possible; fewer bytes than asked for (0 included) only at the end.
  size_t read(std::span<char> buffer);
  Compression compression() const;
  /// Stored (packed) bytes read so far, the look-ahead included: how far into the file this is.
  int64_t stored_bytes() const;

  struct Decoder;  ///< one of three, in input.cpp

 private:
  std::unique_ptr<Decoder> decoder_;
};

/// Hand all unpacked bytes of a file to `on_piece`, in order, in pieces of about 1 MiB. `on_stored`, for
/// progress, is told after each piece how many stored bytes were read.
void for_each_piece(const std::filesystem::path& path, const std::function<void(std::string_view)>& on_piece,
                    const std::function<void(int64_t)>& on_stored = nullptr);

/// What a list of names, folders and patterns stands for.
struct InputFiles {
  std::vector<std::filesystem::path> files;  ///< each file once, in the order given; folders by name
  std::vector<std::string> repeated;         ///< files that were named again and are left out
};

/// Expand files, folders (their FASTA files, not of subfolders) and patterns with * ? [ ] into files.
///
/// A name that exists is taken literally even when it has pattern characters.
/// Throws ValueError: nothing given, no such file (with the nearest name in that folder), a folder without
/// FASTA, a pattern without match, something that is neither file nor folder.
InputFiles expand_inputs(const std::vector<std::string>& patterns);

/// Whether a file name ends like FASTA (.fa .fasta .fna .ffn .fas .fsa .frn .faa .mpfa .seq, also packed).
bool has_fasta_name(const std::filesystem::path& path);

}  // namespace axial::data
