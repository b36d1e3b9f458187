// SPDX-License-Identifier: Apache-2.0
// The byte image of a token store:
//   head (64 bytes) | tokens | offsets, hashes, name ends, files | names | meta (JSON) | trailer (96 bytes)
// The trailer has the section starts, a hash of everything before it and a hash of itself, so that it can
// be written in one pass and a part, a flipped bit or another file is told apart when it is opened.
#include "axial/data/token_cache/token_store.h"

#include <xxhash.h>

#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace axial::data {
namespace {

static_assert(std::endian::native == std::endian::little, "the cache format is little-endian");

constexpr uint64_t kMagic = 0x314b4f5441584100ull;  // "\0AXATOK1"
constexpr size_t kHeadBytes = 64;
constexpr size_t kBuffer = size_t{1} << 20;

struct Trailer {
  uint64_t num_records = 0;
  uint64_t num_tokens = 0;
  uint64_t token_bytes = 0;
  uint64_t index = 0;  // section starts, in bytes
  uint64_t names = 0;
  uint64_t meta = 0;
  uint64_t meta_bytes = 0;
  uint64_t total = 0;  // bytes of the whole image
  uint64_t content = 0;
  uint64_t reserved = 0;
  uint64_t magic = kMagic;
  uint64_t own = 0;  // hash of the fields above
};
static_assert(sizeof(Trailer) == 96);

uint64_t hash_of_trailer(const Trailer& t) { return XXH3_64bits(&t, offsetof(Trailer, own)); }

nlohmann::json to_json(const StoreCounts& c) {
  const FastaCounts& f = c.fasta;
  const EncodeCounts& e = c.encode;
  return {{"fasta", {f.records, f.bases, f.gaps, f.unnamed, f.empty}},
          {"empty_names", f.empty_names},
          {"encode", {e.records, e.tokens, e.unknown, e.ragged, e.dropped_bases, e.too_short}},
          {"too_short_names", c.too_short_names},
          {"repeated", {c.repeated_names, c.repeated_records}}};
}

StoreCounts counts_from_json(const nlohmann::json& j) {
  StoreCounts c;
  const nlohmann::json& f = j.at("fasta");
  const nlohmann::json& e = j.at("encode");
  c.fasta = {f.at(0), f.at(1), f.at(2), f.at(3), f.at(4), j.at("empty_names")};
  c.encode = {e.at(0), e.at(1), e.at(2), e.at(3), e.at(4), e.at(5)};
  c.too_short_names = j.at("too_short_names").get<std::vector<std::string>>();
  c.repeated_names = j.at("repeated").at(0);
  c.repeated_records = j.at("repeated").at(1);
  return c;
}

int64_t count_repeated(std::vector<uint64_t> values) {
  std::sort(values.begin(), values.end());
  return static_cast<int64_t>(values.end() - std::unique(values.begin(), values.end()));
}

template <class T>
std::span<const T> section(std::span<const std::byte> bytes, uint64_t& at, uint64_t count) {
  const uint64_t size = count * sizeof(T);
  AXIAL_CHECK(count <= bytes.size() && at + size <= bytes.size() && at % sizeof(T) == 0, "token_cache",
              "damaged: a section lies outside the file");
  const auto* data = reinterpret_cast<const T*>(bytes.data() + at);
  at += size;
  return {data, count};
}

}  // namespace

TokenStore::TokenStore(const std::filesystem::path& path, std::string_view key) : mapped_(path) {
  bytes_ = mapped_.bytes();
  open(key);
}

TokenStore::TokenStore(std::vector<std::byte> image, std::string_view key) : image_(std::move(image)) {
  bytes_ = image_;
  open(key);
}

void TokenStore::open(std::string_view key) {
  Trailer t;
  AXIAL_CHECK(bytes_.size() >= kHeadBytes + sizeof(Trailer), "token_cache", "damaged: only {} bytes",
              bytes_.size());
  const size_t body = bytes_.size() - sizeof(Trailer);
  std::memcpy(&t, bytes_.data() + body, sizeof(Trailer));
  AXIAL_CHECK(t.magic == kMagic && t.own == hash_of_trailer(t), "token_cache",
              "damaged: no valid trailer (cut short, of another version or not a token cache)");
  AXIAL_CHECK(t.total == bytes_.size(), "token_cache", "damaged: expected {} bytes, got {}", t.total,
              bytes_.size());
  AXIAL_CHECK(t.content == XXH3_64bits(bytes_.data(), body), "token_cache", "damaged: checksum differs");
  token_bytes_ = static_cast<int64_t>(t.token_bytes);
  num_records_ = static_cast<int64_t>(t.num_records);
  num_tokens_ = static_cast<int64_t>(t.num_tokens);
  AXIAL_CHECK((token_bytes_ == 1 || token_bytes_ == 2 || token_bytes_ == 4) && t.index <= body &&
                  t.num_tokens <= (t.index - kHeadBytes) / t.token_bytes,
              "token_cache", "damaged: tokens lie outside the file");
  tokens_ = bytes_.data() + kHeadBytes;
  uint64_t at = t.index;
  offsets_ = section<uint64_t>(bytes_, at, t.num_records + 1);
  hashes_ = section<uint64_t>(bytes_, at, t.num_records);
  name_ends_ = section<uint64_t>(bytes_, at, t.num_records + 1);
  files_ = section<uint32_t>(bytes_, at, t.num_records);
  AXIAL_CHECK(t.names <= t.meta && t.meta <= body && t.meta_bytes <= body - t.meta, "token_cache",
              "damaged: names lie outside the file");
  names_ = {reinterpret_cast<const char*>(bytes_.data()) + t.names, t.meta - t.names};
  AXIAL_CHECK(std::is_sorted(offsets_.begin(), offsets_.end()) && offsets_.back() == t.num_tokens &&
                  std::is_sorted(name_ends_.begin(), name_ends_.end()) && name_ends_.back() <= names_.size(),
              "token_cache", "damaged: the index does not fit the tokens");
  read_meta({reinterpret_cast<const char*>(bytes_.data()) + t.meta, t.meta_bytes}, key);
}

void TokenStore::read_meta(std::string_view text, std::string_view key) {
  try {
    const nlohmann::json meta = nlohmann::json::parse(text);
    const std::string found = meta.at("key");
    AXIAL_CHECK(found == key, "token_cache", "made for other files or options; expected key {}, got {}", key,
                found);
    counts_ = counts_from_json(meta.at("counts"));
  } catch (const nlohmann::json::exception& error) {
    fail("token_cache", "damaged: {}", error.what());
  }
}

std::string_view TokenStore::name(int64_t record) const {
  const size_t i = check(record);
  return names_.substr(name_ends_[i], name_ends_[i + 1] - name_ends_[i]);
}

TokenStoreWriter::TokenStoreWriter(StoreSink& sink, std::string key, int64_t vocab_size)
    : sink_(sink),
      key_(std::move(key)),
      token_bytes_(vocab_size <= 256     ? 1
                   : vocab_size <= 65536 ? 2
                                         : 4) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  hash_ = state;
  buffer_.reserve(kBuffer + 4096);
  put(&kMagic, sizeof(kMagic));
  pad_to(kHeadBytes);
}

TokenStoreWriter::~TokenStoreWriter() { XXH3_freeState(static_cast<XXH3_state_t*>(hash_)); }

void TokenStoreWriter::flush() {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(hash_), buffer_.data(), buffer_.size());
  sink_.write(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void TokenStoreWriter::put(const void* data, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  written_ += bytes;
  buffer_.insert(buffer_.end(), at, at + bytes);
  if (buffer_.size() >= kBuffer) flush();
}

void TokenStoreWriter::pad_to(size_t multiple) {
  const std::vector<std::byte> zeros((multiple - written_ % multiple) % multiple);
  put(zeros.data(), zeros.size());
}

void TokenStoreWriter::add(std::string_view name, uint64_t content_hash, int64_t file,
                           std::span<const int32_t> tokens) {
  const auto narrow = [&]<class T>(T) {
    const size_t old = buffer_.size();
    buffer_.resize(old + tokens.size() * sizeof(T));
    for (size_t i = 0; i < tokens.size(); ++i) {
      const T value = static_cast<T>(tokens[i]);
      std::memcpy(buffer_.data() + old + i * sizeof(T), &value, sizeof(T));
    }
    written_ += tokens.size() * sizeof(T);
  };
  if (token_bytes_ == 1) {
    narrow(uint8_t{});
  } else if (token_bytes_ == 2) {
    narrow(uint16_t{});
  } else {
    narrow(int32_t{});
  }
  if (buffer_.size() >= kBuffer) flush();
  offsets_.push_back(offsets_.back() + tokens.size());
  hashes_.push_back(content_hash);
  names_ += name;
  name_ends_.push_back(names_.size());
  files_.push_back(static_cast<uint32_t>(file));
}

void TokenStoreWriter::finish(StoreCounts counts) {
  std::vector<uint64_t> name_hashes(hashes_.size());
  for (size_t i = 0; i < name_hashes.size(); ++i) {
    name_hashes[i] = XXH3_64bits(names_.data() + name_ends_[i], name_ends_[i + 1] - name_ends_[i]);
  }
  counts.repeated_names = count_repeated(std::move(name_hashes));
  counts.repeated_records = count_repeated(hashes_);
  Trailer t;
  t.num_records = hashes_.size();
  t.num_tokens = offsets_.back();
  t.token_bytes = static_cast<uint64_t>(token_bytes_);
  pad_to(64);
  t.index = written_;
  for (const std::vector<uint64_t>* part : {&offsets_, &hashes_, &name_ends_}) {
    put(part->data(), part->size() * sizeof(uint64_t));
  }
  put(files_.data(), files_.size() * sizeof(uint32_t));
  t.names = written_;
  put(names_.data(), names_.size());
  t.meta = written_;
  // Names of records are bytes of a file; JSON wants UTF-8.
  const std::string meta = nlohmann::json{{"key", key_}, {"counts", to_json(counts)}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
  t.meta_bytes = meta.size();
  put(meta.data(), meta.size());
  pad_to(8);
  flush();
  t.total = written_ + sizeof(Trailer);
  t.content = XXH3_64bits_digest(static_cast<XXH3_state_t*>(hash_));
  t.own = hash_of_trailer(t);
  sink_.write(&t, sizeof(t));
}

}  // namespace axial::data
