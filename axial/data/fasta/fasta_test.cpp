// SPDX-License-Identifier: Apache-2.0
#include "axial/data/fasta/fasta.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"
#include "axial/data/testing/files.h"

namespace axial::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::TempFolder;

struct Parsed {
  std::string text;  // line|name|description|sequence per record
  FastaCounts counts;
  std::string error;
};

// Parse with the chunk sizes that `next_size` gives.
template <class NextSize>
Parsed parse(std::string_view text, Alphabet alphabet, NextSize&& next_size) {
  Parsed out;
  FastaParser parser("f.fa", {alphabet}, [&](const FastaRecord& r) {
    out.text += fmt::format("{}|{}|{}|{}\n", r.line, r.name, r.description, r.sequence);
  });
  out.error = error_of([&] {
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(next_size(), text.size() - at);
      parser.feed(text.substr(at, size));
      at += size;
    }
    parser.finish();
  });
  out.counts = parser.counts();
  return out;
}

Parsed parse(std::string_view text, Alphabet alphabet = Alphabet::kNucleotide) {
  return parse(text, alphabet, [&] { return text.size(); });
}

TEST(Fasta, AcceptedForms) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {">a\nACGT\n", "1|a||ACGT\n"},
      {">a some  text \nAC\nGT", "1|a|some  text|ACGT\n"},
      {">a\r\nAC\r\nGT\r\n>b\r\nA\r\n", "1|a||ACGT\n4|b||A\n"},
      {">a\rAC\rGT\r>b\rA\r", "1|a||ACGT\n4|b||A\n"},
      {"\xef\xbb\xbf>a\nAC\n", "1|a||AC\n"},
      {"\n\n>a\n\nAC\n\nGT\n\n", "3|a||ACGT\n"},
      {";note\n>a\n;inside\nAC\n; x\nGT\n", "2|a||ACGT\n"},
      {">a\nacgtun\n", "1|a||ACGTTN\n"},
      {">a\nRYSWKMBDHVNX\n", "1|a||RYSWKMBDHVNN\n"},
      {">a\nAC GT\tAC \n", "1|a||ACGTAC\n"},
      {">a\nAC--G.T\n", "1|a||ACGT\n"},
      {">a\nACGT*\n>b\nA\n", "1|a||ACGT\n3|b||A\n"},
      {"> a b\nAC\n", "1|a|b|AC\n"},
      {">\nAC\n", "1|unnamed_1||AC\n"},
      {" >a\nAC\n", "1|a||AC\n"},
      {">a|b|c;d>e\nAC\n", "1|a|b|c;d>e||AC\n"},
      {">a\n>b\nAC\n>c\n", "2|b||AC\n"},
      {">a\nAC\n\n>a\nAC\n", "1|a||AC\n4|a||AC\n"},
  };
  for (const auto& [text, expected] : cases) {
    const Parsed got = parse(text);
    EXPECT_EQ(got.text, expected) << text;
    EXPECT_EQ(got.error, "") << text;
  }
  EXPECT_EQ(parse(">p x\nmkvl*EF-\n", Alphabet::kAny).text, "1|p|x|MKVL*EF-\n");
}

TEST(Fasta, Counts) {
  const FastaCounts counts = parse(">a\nAC-G\n>e1\n>\nA\n>e2\n\n").counts;
  EXPECT_EQ(counts.records, 2);
  EXPECT_EQ(counts.bases, 4);
  EXPECT_EQ(counts.gaps, 1);
  EXPECT_EQ(counts.unnamed, 1);
  EXPECT_EQ(counts.empty, 2);
  EXPECT_THAT(counts.empty_names, ::testing::ElementsAre("e1", "e2"));
}

const std::vector<std::pair<std::string, std::vector<std::string>>>& bad_texts() {
  static const std::string protein = "MKVLAAGIVGLCAKAYEIPQWFHDENRST";
  static const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
      {"", {"empty file"}},
      {"\n \n;x\n", {"no record", "only blank lines"}},
      {"ACGT\n>a\nAC\n", {"f.fa:1:", "before the first header", "'ACGT'"}},
      {"\n@read\nACGT\n+\nIIII\n", {"f.fa:2:", "FASTQ"}},
      {"#NEXUS\nBEGIN TAXA;\n", {"NEXUS"}},
      {"LOCUS       X 1 bp\n", {"GenBank"}},
      {">a\nACGT\nAC!T\n", {"f.fa:3:3:", "'!'", "record 'a'"}},
      {">a\nACGTACGTACGTACGTACGTE\n>b\nA\n", {"f.fa:2:21:", "'E'"}},
      {">a\nAC*GT\n", {"f.fa:2:3:", "'*'"}},
      {">a\nACGT 12\n", {"f.fa:2:6:", "'1'"}},
      {">a\nAC>b\nGT\n", {"f.fa:2:3:", "'>' inside a line"}},
      {fmt::format(">p\n{0}\n{0}\n", protein), {"f.fa:2:4:", "'L'", "looks like protein"}},
      {">p\nMKVDAAGHVGMCAKAYDHRSWRHDKNRSTMKVD\n", {"looks like protein", "f.fa:1:"}},
      {">a\nthe quick brown fox, jumps over 3 dogs\n", {"f.fa:2:3:", "'e'"}},
      {std::string(">a\nAC\0GT\n", 9), {"f.fa:2:3:", "binary data", "0x00"}},
      {">a\nAC\xc3\xa9GT\n", {"f.fa:2:3:", "binary data", "0xc3"}},
      {std::string(">a\0b\nAC\n", 8), {"f.fa:1:3:", "binary data"}},
      {std::string("\x7f"
                   "ELF\2\1\1\0\0\0",
                   10),
       {"binary data", "0x7f"}},
      {std::string("\xff\xfe>\0a\0", 6), {"binary data", "0xff"}},
      {"\xef\xbb"
       "ACGT",
       {"binary data"}},
  };
  return cases;
}

TEST(Fasta, ErrorsNamePlaceAndReason) {
  for (const auto& [text, parts] : bad_texts()) {
    const std::string error = parse(text).error;
    for (const std::string& part : parts) EXPECT_THAT(error, HasSubstr(part)) << text;
  }
  std::string long_header(2 << 20, 'x');
  long_header[0] = '>';
  EXPECT_THAT(parse(long_header).error, HasSubstr("header of over"));
  // A lone wrong letter in a long nucleotide record is not called protein.
  EXPECT_THAT(parse(">a\nACGTACGTACGTACGTACGTE\n").error, ::testing::Not(HasSubstr("protein")));
}

TEST(Fasta, ChunkBordersDoNotMatter) {
  std::vector<std::string> texts{
      "\xef\xbb\xbf;c\r\n>a  d e \r\nAC\r\n-gn\r\n\r\n>b\rAC*\r>c\n\n ac gt\t\nRY*\n>\n>e\nA",
      ">a\n" + std::string(300, 'A') + "\n" + std::string(300, 'c') + "\n>b\n" + std::string(500, 'N')};
  for (const auto& bad : bad_texts()) texts.push_back(bad.first);
  // Random soup of the characters that matter.
  const RngKey key{7};
  for (uint64_t n = 0; n < 300; ++n) {
    std::string soup = n % 3 ? ">r\n" : "";
    for (uint64_t i = 0; i < 40; ++i)
      soup += "ACGTacgtN>;\n\n\r \t*-.ELq1"[random_below(key.child(n), i, 24)];
    texts.push_back(soup);
  }
  for (const Alphabet alphabet : {Alphabet::kNucleotide, Alphabet::kAny}) {
    for (size_t t = 0; t < texts.size(); ++t) {
      const Parsed whole = parse(texts[t], alphabet);
      uint64_t draw = 0;
      for (uint64_t trial = 0; trial < 8; ++trial) {
        const Parsed cut = parse(texts[t], alphabet, [&] {
          return trial == 0 ? uint64_t{1} : 1 + random_below(key.child("cut"), draw++, 3 + trial * 5);
        });
        ASSERT_EQ(cut.text, whole.text) << t << " trial " << trial;
        ASSERT_EQ(cut.error, whole.error) << t << " trial " << trial;
        ASSERT_EQ(cut.counts.gaps, whole.counts.gaps);
      }
    }
  }
}

TEST(Fasta, PackedFilesGiveEqualRecords) {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 3000; ++i)
    text += fmt::format(">r{}\n{}\n", i, std::string(1 + i % 1500, "ACGT"[i % 4]));
  const auto records = [&](const std::string& path) {
    std::string out;
    read_fasta(path, {}, [&](const FastaRecord& r) { out += fmt::format("{} {}\n", r.name, r.sequence); });
    return out;
  };
  const std::string plain = records(folder.write("a.fa", text));
  EXPECT_EQ(std::count(plain.begin(), plain.end(), '\n'), 3000);
  EXPECT_TRUE(plain == records(folder.write("a.fa.gz", testing::gzip_bytes(text))));
  EXPECT_TRUE(plain == records(folder.write("a.fa.zst", testing::zstd_bytes(text))));
  for (const char* name : {"a.fa", "a.fa.gz", "a.fa.zst"}) {  // progress counts the bytes of the file
    std::vector<int64_t> stored;
    read_fasta(
        folder.path() / name, {}, [](const FastaRecord&) {}, [&](int64_t bytes) { stored.push_back(bytes); });
    EXPECT_TRUE(std::is_sorted(stored.begin(), stored.end()));
    EXPECT_EQ(stored.back(), static_cast<int64_t>(std::filesystem::file_size(folder.path() / name)));
  }
}

TEST(Fasta, RealFiles) {
  AXIAL_GENOME_FILE(genomes, "sarscov2_consensus_4096.fasta.zst");
  int64_t letters = 0;
  const FastaCounts counts = read_fasta(
      genomes, {}, [&](const FastaRecord& r) { letters += static_cast<int64_t>(r.sequence.size()); });
  EXPECT_EQ(counts.records, 4096);
  EXPECT_EQ(letters, counts.bases);
  EXPECT_EQ(letters + counts.gaps, 122377552);
  EXPECT_EQ(counts.gaps, 79);
  AXIAL_GENOME_FILE(yeast, "yeast_cds_6600.fasta.zst");
  int64_t starts = 0;
  const FastaCounts cds =
      read_fasta(yeast, {}, [&](const FastaRecord& r) { starts += r.sequence.starts_with("ATG"); });
  EXPECT_EQ(cds.records, 6600);
  EXPECT_EQ(cds.bases, 2849520 + 1675095 + 1798911 + 2438475);
  EXPECT_GT(starts, 6500);
  AXIAL_GENOME_FILE(nexus, "influenza_h1n1_ha_codons.nex.zst");
  EXPECT_THAT(error_of([&] { read_fasta(nexus, {}, [](const FastaRecord&) {}); }), HasSubstr("NEXUS"));
}

}  // namespace
}  // namespace axial::data
