// SPDX-License-Identifier: Apache-2.0
#include "axial/data/input/input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "axial/core/check/check.h"
#include "axial/data/testing/files.h"

namespace axial::data {
namespace {

using testing::error_of;
using testing::gzip_bytes;
using ::testing::HasSubstr;
using testing::TempFolder;
using testing::zstd_bytes;

std::string all_of(const std::filesystem::path& path, size_t piece) {
  InputStream stream(path);
  std::string text;
  std::string buffer(piece, '\0');
  for (;;) {
    const size_t got = stream.read(std::span(buffer.data(), buffer.size()));
    text.append(buffer, 0, got);
    if (got < piece) return text;
  }
}

std::string some_text() {
  std::string text;
  for (int i = 0; i < 60000; ++i) text += fmt::format("line {} {}\n", i, i * 7919 % 104729);
  return text;
}

TEST(Input, EqualBytesForEveryPacking) {
  const TempFolder folder;
  const std::string text = some_text();
  const std::string half = text.substr(0, text.size() / 2);
  const std::string rest = text.substr(text.size() / 2);
  const std::string skippable(
      "\x50\x2a\x4d\x18\x03\x00\x00\x00"
      "abc",
      11);
  const std::vector<std::pair<std::string, Compression>> files{
      {folder.write("a.gz.txt", text), Compression::kNone},
      {folder.write("b", gzip_bytes(text)), Compression::kGzip},
      {folder.write("c", gzip_bytes(half) + gzip_bytes(rest)), Compression::kGzip},
      {folder.write("d", gzip_bytes(text) + std::string(1000, '\0')), Compression::kGzip},
      {folder.write("e.gz", zstd_bytes(text)), Compression::kZstd},
      {folder.write("f", zstd_bytes(half) + skippable + zstd_bytes("") + zstd_bytes(rest)),
       Compression::kZstd},
  };
  for (const auto& [path, kind] : files) {
    EXPECT_EQ(InputStream(path).compression(), kind) << path;
    for (const size_t piece : {size_t{777}, size_t{65536}, text.size(), text.size() + 1}) {
      EXPECT_TRUE(all_of(path, piece) == text) << path << " piece " << piece;
    }
  }
}

TEST(Input, SmallAndEmptyFiles) {
  const TempFolder folder;
  EXPECT_EQ(all_of(folder.write("empty", ""), 10), "");
  EXPECT_EQ(all_of(folder.write("one", "x"), 10), "x");
  EXPECT_EQ(all_of(folder.write("empty.gz", gzip_bytes("")), 10), "");
  EXPECT_EQ(all_of(folder.write("empty.zst", zstd_bytes("")), 10), "");
}

TEST(Input, DamagedFilesNameFileAndFault) {
  const TempFolder folder;
  const std::string text = some_text();
  const std::string gz = gzip_bytes(text);
  const std::string zst = zstd_bytes(text);
  const auto flipped = [](std::string bytes) {
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x55);
    return bytes;
  };
  const std::vector<std::pair<std::string, std::string>> cases{
      {gz.substr(0, gz.size() / 2), "truncated gzip"},
      {gz.substr(0, gz.size() - 1), "truncated gzip"},
      {gz.substr(0, 5), "truncated gzip"},
      {flipped(gz), "damaged gzip"},
      {gz + "tail", "follow the gzip stream"},
      {zst.substr(0, zst.size() / 2), "truncated zstd"},
      {zst.substr(0, zst.size() - 1), "truncated zstd"},
      {zst.substr(0, 4), "truncated zstd"},
      {flipped(zst), "damaged zstd"},
      {zst + "tail", "damaged zstd"},
      {zst + zst.substr(0, 20), "truncated zstd"},
      {"BZh91AY&SY", "bzip2"},
      {std::string("\xfd"
                   "7zXZ\0",
                   6),
       "xz"},
      {"PK\x03\x04....", "zip"},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string path = folder.write(fmt::format("bad{}", i), cases[i].first);
    const std::string error = error_of([&] { all_of(path, 4096); });
    EXPECT_THAT(error, HasSubstr(cases[i].second)) << i;
    EXPECT_THAT(error, HasSubstr(path)) << i;
  }
  EXPECT_THAT(error_of([&] { InputStream stream(folder.path() / "none"); }), HasSubstr("No such file"));
}

TEST(Input, ExpandsFilesFoldersAndPatterns) {
  const TempFolder folder;
  for (const char* name : {"b.fasta", "a.fna.gz", "c.FA", "d[1].fa", "notes.txt", ".hidden.fa"})
    folder.write(name, "x");
  std::filesystem::create_directory(folder.path() / "sub.fa");
  const auto names = [&](const std::vector<std::string>& patterns) {
    std::vector<std::string> out;
    for (const auto& file : expand_inputs(patterns).files) out.push_back(file.filename().string());
    return out;
  };
  const std::string at = folder.path().string() + "/";
  using Names = std::vector<std::string>;
  EXPECT_EQ(names({at}), (Names{"a.fna.gz", "b.fasta", "c.FA", "d[1].fa"}));
  EXPECT_EQ(names({at + "*.f*a"}), (Names{"b.fasta", "d[1].fa"}));
  EXPECT_EQ(names({at + "d[1].fa"}), (Names{"d[1].fa"}));  // a name that exists is not a pattern
  EXPECT_EQ(names({at + "[ab].f*"}), (Names{"a.fna.gz", "b.fasta"}));
  EXPECT_EQ(names({at + "notes.txt", at + "b.fasta"}), (Names{"notes.txt", "b.fasta"}));
  const InputFiles twice = expand_inputs({at + "b.fasta", at + "./b.fasta"});
  EXPECT_EQ(twice.files.size(), 1u);
  EXPECT_EQ(twice.repeated.size(), 1u);
}

TEST(Input, ExpansionErrorsHelp) {
  const TempFolder folder;
  folder.write("genomes.fasta", "x");
  std::filesystem::create_directory(folder.path() / "empty");
  folder.write("empty/readme.txt", "x");
  const std::string at = folder.path().string() + "/";
  const auto expand_error = [](const std::string& text) { return error_of([&] { expand_inputs({text}); }); };
  EXPECT_THAT(expand_error(at + "genome.fasta"), HasSubstr("did you mean 'genomes.fasta'"));
  EXPECT_THAT(expand_error(at + "emtpy/x.fa"), HasSubstr("did you mean 'empty'"));
  EXPECT_THAT(expand_error(at + "empty"), HasSubstr("no FASTA file"));
  EXPECT_THAT(expand_error(at + "empty"), HasSubstr("got 1 other"));
  EXPECT_THAT(expand_error(at + "*.fna"), HasSubstr("no file matches"));
  EXPECT_THAT(expand_error(""), HasSubstr("empty"));
  EXPECT_THAT(expand_error("/dev/null"), HasSubstr("neither a file nor a folder"));
  EXPECT_THAT(error_of([] { expand_inputs({}); }), HasSubstr("no input given"));
}

}  // namespace
}  // namespace axial::data
