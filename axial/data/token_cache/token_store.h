// SPDX-License-Identifier: Apache-2.0
// The tokens of all records of a file set, mapped from a cache file or held in memory. Split, packing and
// genome read it; token_cache.h makes it. No torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/data/fasta/fasta.h"
#include "axial/data/tokenizer/tokenizer.h"

namespace axial::data {

/// What building the store met; kept in the cache, so that it is reported on every start.
struct StoreCounts {
  FastaCounts fasta;
  EncodeCounts encode;
  std::vector<std::string> too_short_names;  ///< the first few records shorter than one token
  int64_t repeated_names = 0;                ///< records whose name an earlier record has
  int64_t repeated_records = 0;              ///< records whose sequence an earlier record has
};

/// Records of tokens by index, in file order. Immutable; reading from several threads is fine.
///
/// Tokens take 1 byte for vocabularies up to 256, else 2, else 4. Little-endian machines only.
class TokenStore {
 public:
  /// Map a cache file. Throws ValueError with the reason when it is damaged, of another version or not
  /// made for `key`; the whole file is read once for its checksum.
  TokenStore(const std::filesystem::path& path, std::string_view key);
  /// The same over an image in memory (what TokenStoreWriter made).
  TokenStore(std::vector<std::byte> image, std::string_view key);

  int64_t num_records() const { return num_records_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t length(int64_t record) const { return begin(record + 1) - begin(record); }
  std::string_view name(int64_t record) const;
  /// XXH3-64 of the sequence as parsed (upper case, U as T): equal for any tokenizer.
  uint64_t content_hash(int64_t record) const { return hashes_[check(record)]; }
  /// Index of the file that the record is from.
  int64_t file(int64_t record) const { return files_[check(record)]; }
  /// Copy tokens [from, from + out.size()) of a record.
  template <class T>
  void copy(int64_t record, int64_t from, std::span<T> out) const;
  const StoreCounts& counts() const { return counts_; }
  /// Bytes of memory or of the mapped file.
  int64_t num_bytes() const { return static_cast<int64_t>(bytes_.size()); }

 private:
  void open(std::string_view key);
  void read_meta(std::string_view text, std::string_view key);
  size_t check(int64_t record) const {
    AXIAL_CHECK(record >= 0 && record < num_records_, "token_store", "record; expected 0 to {}, got {}",
                num_records_ - 1, record);
    return static_cast<size_t>(record);
  }
  int64_t begin(int64_t record) const {
    AXIAL_CHECK(record >= 0 && record <= num_records_, "token_store", "record; expected 0 to {}, got {}",
                num_records_ - 1, record);
    return static_cast<int64_t>(offsets_[static_cast<size_t>(record)]);
  }

  MappedFile mapped_;
  std::vector<std::byte> image_;
  std::span<const std::byte> bytes_;
  const std::byte* tokens_ = nullptr;
  int64_t token_bytes_ = 1;
  int64_t num_records_ = 0;
  int64_t num_tokens_ = 0;
  std::span<const uint64_t> offsets_;    // [records + 1] in tokens
  std::span<const uint64_t> hashes_;     // [records]
  std::span<const uint64_t> name_ends_;  // [records + 1] in bytes of names_
  std::span<const uint32_t> files_;      // [records]
  std::string_view names_;
  StoreCounts counts_;
};

template <class T>
void TokenStore::copy(int64_t record, int64_t from, std::span<T> out) const {
  const auto count = static_cast<int64_t>(out.size());
  AXIAL_CHECK(from >= 0 && from + count <= length(record), "token_store",
              "tokens of record {}; expected 0 to {}, got {} to {}", record, length(record), from,
              from + count);
  const int64_t first = begin(record) + from;
  const auto convert = [&](const auto* at) { std::copy_n(at + first, count, out.begin()); };
  if (token_bytes_ == 1) return convert(reinterpret_cast<const uint8_t*>(tokens_));
  if (token_bytes_ == 2) return convert(reinterpret_cast<const uint16_t*>(tokens_));
  convert(reinterpret_cast<const int32_t*>(tokens_));
}

/// Where the bytes of a store go.
class StoreSink {
 public:
  virtual ~StoreSink() = default;
  virtual void write(const void* data, size_t bytes) = 0;
};

/// Write a store record by record; memory grows with the number of records, not of tokens.
class TokenStoreWriter {
 public:
  TokenStoreWriter(StoreSink& sink, std::string key, int64_t vocab_size);
  ~TokenStoreWriter();
  void add(std::string_view name, uint64_t content_hash, int64_t file, std::span<const int32_t> tokens);
  /// Write index and checksum. Fills the repeated_* fields of `counts`. Call once.
  void finish(StoreCounts counts);

 private:
  void put(const void* data, size_t bytes);
  void pad_to(size_t multiple);
  void flush();

  StoreSink& sink_;
  std::string key_;
  int64_t token_bytes_ = 1;
  std::vector<std::byte> buffer_;
  uint64_t written_ = 0;
  void* hash_ = nullptr;
  std::vector<uint64_t> offsets_{0};
  std::vector<uint64_t> hashes_;
  std::vector<uint64_t> name_ends_{0};
  std::vector<uint32_t> files_;
  std::string names_;
};

}  // namespace axial::data
