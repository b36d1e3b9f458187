// SPDX-License-Identifier: Apache-2.0
#include "axial/data/token_cache/token_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <chrono>

#include "axial/data/testing/files.h"

namespace axial::data {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempFolder;

std::vector<int64_t> tokens(const TokenStore& store, int64_t record) {
  std::vector<int64_t> out(static_cast<size_t>(store.length(record)));
  store.copy<int64_t>(record, 0, out);
  return out;
}

std::vector<fs::path> two_files(const TempFolder& folder) {
  return {folder.write("a.fa", ">x\nATGGGC\n>tiny\nAC\n>y 1\nATGN\n>none\n"),
          folder.write("b.fa", ">x\natgggc\n>z\nTAGTAG\n")};
}

TEST(TokenCache, RecordsOfFilesInOrder) {
  const TempFolder folder;
  const auto files = two_files(folder);
  const auto tokenizer = make_tokenizer({});
  const std::string cache = (folder.path() / "cache").string();
  for (const std::string& where : {std::string("none"), cache, cache}) {
    const OpenedStore opened = open_token_store(files, *tokenizer, where);
    EXPECT_THAT(opened.warnings, IsEmpty());
    const TokenStore& store = *opened.store;
    ASSERT_EQ(store.num_records(), 4);
    EXPECT_EQ(store.num_tokens(), 4 + 3 + 4 + 4);
    EXPECT_EQ(store.name(1), "y");
    EXPECT_THAT(tokens(store, 0), ElementsAre(1, 10, 5, 2));
    EXPECT_THAT(tokens(store, 1), ElementsAre(1, 10, 2));
    EXPECT_THAT(tokens(store, 3), ElementsAre(1, 68, 68, 2));
    EXPECT_EQ(store.file(1), 0);
    EXPECT_EQ(store.file(2), 1);
    EXPECT_EQ(store.content_hash(0), store.content_hash(2));
    EXPECT_NE(store.content_hash(0), store.content_hash(1));
    const StoreCounts& counts = store.counts();
    EXPECT_EQ(counts.fasta.empty, 1);
    EXPECT_THAT(counts.fasta.empty_names, ElementsAre("none"));
    EXPECT_EQ(counts.encode.too_short, 1);
    EXPECT_THAT(counts.too_short_names, ElementsAre("tiny"));
    EXPECT_EQ(counts.encode.ragged, 1);
    EXPECT_EQ(counts.repeated_names, 1);
    EXPECT_EQ(counts.repeated_records, 1);
    std::vector<int64_t> out(3);
    EXPECT_THAT(error_of([&] { store.copy<int64_t>(1, 1, out); }), HasSubstr("expected 0 to 3, got 1 to 4"));
    EXPECT_THAT(error_of([&] { store.name(4); }), HasSubstr("expected 0 to 3, got 4"));
  }
}

TEST(TokenCache, BuiltOnceAndKeyedByContent) {
  const TempFolder folder;
  const auto files = two_files(folder);
  const std::string cache = (folder.path() / "cache").string();
  const auto tokenizer = make_tokenizer({});
  EXPECT_TRUE(open_token_store(files, *tokenizer, cache).built);
  EXPECT_FALSE(open_token_store(files, *tokenizer, cache).built);
  // Another name, the same content.
  fs::rename(files[0], folder.path() / "c.fa");
  EXPECT_FALSE(open_token_store({folder.path() / "c.fa", files[1]}, *tokenizer, cache).built);
  EXPECT_TRUE(open_token_store({files[1], folder.path() / "c.fa"}, *tokenizer, cache).built);
  EXPECT_TRUE(
      open_token_store({folder.path() / "c.fa", files[1]}, *make_tokenizer({.frame = 1}), cache).built);
  folder.write("c.fa", ">x\nATGGGT\n");
  EXPECT_TRUE(open_token_store({folder.path() / "c.fa", files[1]}, *tokenizer, cache).built);
  for (const auto& entry : fs::directory_iterator(cache)) {
    EXPECT_TRUE(entry.path().extension() == ".tokens" || entry.is_directory()) << entry.path();
  }
}

TEST(TokenCache, DamagedFilesAreRebuiltWithAWarning) {
  const TempFolder folder;
  const auto files = two_files(folder);
  const std::string cache = (folder.path() / "cache").string();
  const auto tokenizer = make_tokenizer({});
  const OpenedStore first = open_token_store(files, *tokenizer, cache);
  const std::string good = read_file(first.path);
  std::vector<std::string> damaged{"", "x", good.substr(0, good.size() - 1), good + "x",
                                   std::string(good.size(), 'x')};
  for (size_t at = 0; at < good.size(); at += 7) {
    damaged.push_back(good);
    damaged.back()[at] = static_cast<char>(damaged.back()[at] ^ 0x10);
  }
  const OpenedStore other = open_token_store({files[1]}, *tokenizer, cache);
  damaged.push_back(read_file(other.path));  // sound, but of other files
  for (size_t i = 0; i < damaged.size(); ++i) {
    std::ofstream(first.path, std::ios::binary) << damaged[i];
    const OpenedStore again = open_token_store(files, *tokenizer, cache);
    EXPECT_TRUE(again.built) << i;
    ASSERT_EQ(again.warnings.size(), 1u) << i;
    EXPECT_THAT(again.warnings[0], HasSubstr("is built anew"));
    EXPECT_EQ(read_file(first.path), good) << i;
  }
}

TEST(TokenCache, UnwritableFolderFallsBack) {
  const TempFolder folder;
  const auto files = two_files(folder);
  folder.write("file", "in the way");
  const OpenedStore opened =
      open_token_store(files, *make_tokenizer({}), (folder.path() / "file" / "cache").string());
  EXPECT_EQ(opened.store->num_records(), 4);
  ASSERT_EQ(opened.warnings.size(), 1u);
  EXPECT_THAT(opened.warnings[0], HasSubstr("cannot be written"));
  EXPECT_THAT(opened.path.string(), HasSubstr(fs::temp_directory_path().string()));
  fs::remove(opened.path);
}

TEST(TokenCache, ErrorsLeaveNothingBehind) {
  const TempFolder folder;
  const std::string cache = (folder.path() / "cache").string();
  const fs::path bad = folder.write("bad.fa", ">a\nACGTACGT\n>b\nAC!\n");
  EXPECT_THAT(error_of([&] { open_token_store({bad}, *make_tokenizer({}), cache); }),
              HasSubstr("bad.fa:4:3"));
  const fs::path tiny = folder.write("tiny.fa", ">a\nAC\n>b\n");
  EXPECT_THAT(error_of([&] { open_token_store({tiny}, *make_tokenizer({}), cache); }),
              HasSubstr("1 are empty, 1 shorter than one token"));
  for (const auto& entry : fs::directory_iterator(cache)) EXPECT_TRUE(entry.is_directory()) << entry.path();
}

TEST(TokenCache, WhatKilledBuildersLeftGoes) {
  const TempFolder folder;
  const auto files = two_files(folder);
  const auto tokenizer = make_tokenizer({});
  const fs::path cache = folder.path() / "cache";
  const std::string key = open_token_store(files, *tokenizer, cache.string()).path.stem();
  fs::remove(cache / (key + ".tokens"));
  const fs::path own = folder.write("cache/" + key + ".tmp-host-1-0", "part");
  const fs::path old = folder.write("cache/other.tmp-host-1-0", "part");
  const fs::path lock = folder.write("cache/other.lock", "");
  const fs::path young = folder.write("cache/young.tmp-host-1-0", "part");
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_TRUE(open_token_store(files, *tokenizer, cache.string()).built);
  EXPECT_FALSE(fs::exists(own) || fs::exists(old) || fs::exists(lock));
  EXPECT_TRUE(fs::exists(young));
}

TEST(TokenCache, WiderTokens) {
  const TempFolder folder;
  const fs::path file = folder.write("p.faa", ">p\nMKVL*\n");
  const OpenedStore opened = open_token_store({file}, *make_tokenizer({.kind = "byte"}), "none");
  EXPECT_THAT(tokens(*opened.store, 0), ElementsAre(1, 5 + 'M', 5 + 'K', 5 + 'V', 5 + 'L', 5 + '*', 2));
}

TEST(TokenCache, ConcurrentBuildersAgree) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 20000; ++i)
    text += fmt::format(">r{}\nATG{}TAG\n", i, std::string(3 * (i % 50), "ACGT"[i % 4]));
  const fs::path file = folder.write("a.fa", text);
  const std::string cache = (folder.path() / "cache").string();
  std::vector<pid_t> children;
  for (int c = 0; c < 4; ++c) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int code = 1;
      try {
        const OpenedStore opened = open_token_store({file}, *make_tokenizer({}), cache);
        code = opened.store->num_records() == 20000 && opened.warnings.empty() ? (opened.built ? 10 : 11) : 2;
      } catch (...) {
        code = 3;
      }
      ::_exit(code);
    }
    children.push_back(child);
  }
  int built = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_GE(WEXITSTATUS(status), 10);
    built += WEXITSTATUS(status) == 10;
  }
  EXPECT_EQ(built, 1);
}

TEST(TokenCache, ContentHashIsNotFooledByTimes) {
  const TempFolder folder;
  const fs::path file = folder.write("a.fa", ">a\nACGT\n");
  const fs::path notes = folder.path() / "notes";
  const std::string first = content_hash_of_file(file, notes);
  EXPECT_EQ(first, hash_file(file));
  // Fresh files are not remembered.
  EXPECT_FALSE(fs::exists(notes / "content_hashes"));
  struct stat before {};
  ASSERT_EQ(::stat(file.c_str(), &before), 0);
  folder.write("a.fa", ">a\nACGA\n");  // same size
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, file.c_str(), times, 0), 0);  // same mtime
  EXPECT_NE(content_hash_of_file(file, notes), first);
}

TEST(TokenCache, ContentHashIsRemembered) {
  AXIAL_GENOME_FILE(file, "sarscov2_reference_2.fasta");
  const TempFolder folder;
  const std::string hash = content_hash_of_file(file, folder.path());
  EXPECT_EQ(hash, hash_file(file));
  int64_t notes = 0;
  fs::path note;
  for (const auto& entry : fs::directory_iterator(folder.path() / "content_hashes")) {
    ++notes;
    note = entry.path();
  }
  ASSERT_EQ(notes, 1);
  EXPECT_EQ(content_hash_of_file(file, folder.path()), hash);
  // A damaged note is ignored.
  std::ofstream(note) << "damaged";
  EXPECT_EQ(content_hash_of_file(file, folder.path()), hash);
}

TEST(TokenCache, RealGenomes) {
  AXIAL_GENOME_FILE(file, "sarscov2_consensus_4096.fasta.zst");
  const TempFolder folder;
  const auto tokenizer = make_tokenizer({});
  const OpenedStore built = open_token_store({file}, *tokenizer, folder.path().string());
  EXPECT_EQ(built.store->num_records(), 4096);
  EXPECT_EQ(built.store->num_tokens(), built.store->counts().encode.tokens);
  const OpenedStore mapped = open_token_store({file}, *tokenizer, folder.path().string());
  EXPECT_FALSE(mapped.built);
  EXPECT_EQ(tokens(*mapped.store, 4095), tokens(*built.store, 4095));
}

}  // namespace
}  // namespace axial::data
