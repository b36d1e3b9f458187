// SPDX-License-Identifier: Apache-2.0
// FASTA text -> records: a parser that is fed with chunks cut anywhere, and a reader of files over it.
// The token cache calls it; it is fuzzed alone (fasta_fuzz.cpp). No torch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace axial::data {

/// Which characters a sequence may hold.
enum class Alphabet {
  kNucleotide,  ///< A C G T U, IUPAC ambiguity codes, X (read as unknown), gaps
  kAny,         ///< every printable ASCII character: proteins, structures
};

struct FastaOptions {
  Alphabet alphabet = Alphabet::kNucleotide;
};

/// One record; the views are valid during the call that hands it over.
struct FastaRecord {
  std::string_view name;         ///< first word of the header; "unnamed_<line>" where there is none
  std::string_view description;  ///< rest of the header
  std::string_view sequence;     ///< upper case; nucleotides: U is T, gaps are gone
  int64_t line = 0;              ///< of the header, from 1
};

/// What was seen, to be reported.
struct FastaCounts {
  int64_t records = 0;                   ///< handed over
  int64_t bases = 0;                     ///< characters of their sequences
  int64_t gaps = 0;                      ///< removed - and . (nucleotides)
  int64_t unnamed = 0;                   ///< headers without a name
  int64_t empty = 0;                     ///< headers without a sequence: left out
  std::vector<std::string> empty_names;  ///< the first few of them
};

/// Parse FASTA text given in chunks; the result does not depend on where the chunks are cut.
///
/// Accepted: sequences over several lines; ends of line LF, CR LF, CR; no final end of line; a UTF-8 byte
/// order mark; blank lines; spaces and tabs in sequences; lines that start with `;` (comments); lower case
/// (soft masking). Nucleotides: gaps `-` and `.` are removed and counted, so an alignment gives its
/// sequences; `*` is allowed only as the last character of a record (an old end mark) and dropped.
/// A header without sequence is counted and left out.
/// Throws ValueError with `file:line:column`: text before the first header, a character that is no
/// nucleotide code (saying so when the record looks like protein), binary data, a header over 1 MiB, and at
/// the end no record at all. Memory: the longest record.
class FastaParser {
 public:
  using OnRecord = std::function<void(const FastaRecord&)>;

  FastaParser(std::string source_name, FastaOptions options, OnRecord on_record);
  /// Parse the next bytes of the text.
  void feed(std::string_view chunk);
  /// The text is over: hand over the last record. Call once.
  void finish();
  const FastaCounts& counts() const { return counts_; }

 private:
  enum class State { kBom, kLineStart, kHeader, kComment, kSequence, kStray };
  struct Place {
    int64_t line = 0;
    int64_t column = 0;
    unsigned char character = 0;
  };

  const char* parse(const char* at, const char* end);
  const char* line_start(const char* at, const char* end);
  const char* rest_of_line(const char* at, const char* end);
  const char* sequence(const char* at, const char* end);
  bool plain_run(const char* at, const char* end);
  const char* careful_run(const char* at, const char* end);
  void letter(unsigned char c);
  void base(unsigned char mapped, bool foreign);
  void suspect(const Place& place);
  void judge();
  void line_done(char terminator);
  void header_done();
  void stray_done();
  void record_done();
  Place here(unsigned char c) const { return {line_, column_ + 1, c}; }
  [[noreturn]] void fail_binary(unsigned char c) const;

  std::string source_;
  FastaOptions options_;
  OnRecord on_record_;
  FastaCounts counts_;
  State state_ = State::kBom;
  int64_t line_ = 1;
  int64_t column_ = 0;  // bytes of this line already parsed
  int64_t stray_column_ = 0;
  int bom_bytes_ = 0;
  bool after_cr_ = false;  // a line feed here belongs to the carriage return before it
  bool in_record_ = false;
  std::string text_;  // header or stray line
  std::string name_;
  std::string description_;
  int64_t header_line_ = 0;
  std::vector<char> bases_;
  size_t length_ = 0;
  int64_t foreign_ = 0;  // letters of this record other than A C G T U N X
  int64_t other_ = 0;    // characters of a suspicious record that no sequence has
  Place star_;           // a `*` that must turn out to be the last character
  Place bad_;            // first wrong character of a suspicious record
  int64_t judged_after_ = 0;
};

/// Parse a whole file (plain, gzip or zstd) and return what was seen. `on_stored`, for progress, is told now
/// and then how many stored bytes were read. Throws as InputStream and FastaParser.
FastaCounts read_fasta(const std::filesystem::path& path, FastaOptions options,
                       const FastaParser::OnRecord& on_record,
                       const std::function<void(int64_t)>& on_stored = nullptr);

}  // namespace axial::data
