// SPDX-License-Identifier: Apache-2.0
// The state machine of fasta.h. Sequence lines of plain letters take one table look-up per byte
// (plain_run); anything unusual in a line sends that piece through careful_run.
#include "axial/data/fasta/fasta.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/data/fasta/letters.h"
#include "axial/data/input/input.h"

namespace axial::data {
namespace {

using namespace letters;

constexpr size_t kMaxHeader = size_t{1} << 20;
constexpr size_t kStrayShown = 40;        // characters of a stray first line that an error shows
constexpr int64_t kJudgedLetters = 2000;  // letters looked at before a wrong character is judged
constexpr size_t kNamesKept = 8;

std::string shown(unsigned char c) {
  return c > ' ' && c < 127 ? fmt::format("'{}'", static_cast<char>(c)) : fmt::format("byte 0x{:02x}", c);
}

constexpr bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\v' || c == '\f'; }

}  // namespace

FastaParser::FastaParser(std::string source_name, FastaOptions options, OnRecord on_record)
    : source_(std::move(source_name)), options_(options), on_record_(std::move(on_record)) {}

void FastaParser::feed(std::string_view chunk) {
  const char* at = chunk.data();
  const char* end = at + chunk.size();
  while (at < end) at = parse(at, end);
}

const char* FastaParser::parse(const char* at, const char* end) {
  switch (state_) {
    case State::kBom: {
      constexpr std::array<char, 3> kBom{'\xef', '\xbb', '\xbf'};
      if (*at == kBom[bom_bytes_]) {
        if (++bom_bytes_ == 3) state_ = State::kLineStart;
        return at + 1;
      }
      if (bom_bytes_ > 0) fail_binary(static_cast<unsigned char>(kBom[0]));
      state_ = State::kLineStart;
      return at;
    }
    case State::kLineStart:
      return line_start(at, end);
    case State::kHeader:
    case State::kComment:
    case State::kStray:
      return rest_of_line(at, end);
    case State::kSequence:
      return sequence(at, end);
  }
  return end;
}

const char* FastaParser::line_start(const char* at, const char* end) {
  const char c = *at;
  if (std::exchange(after_cr_, false) && c == '\n') return at + 1;
  if (c == '\n' || c == '\r') {
    line_done(c);
    return at + 1;
  }
  if (is_blank(c)) {
    ++column_;
    return at + 1;
  }
  if (c == '>') {
    record_done();
    in_record_ = true;
    header_line_ = line_;
    text_.clear();
    state_ = State::kHeader;
  } else if (c == ';') {
    state_ = State::kComment;
  } else if (in_record_) {
    state_ = State::kSequence;
    return at;
  } else {
    text_.assign(1, c);
    stray_column_ = column_;
    state_ = State::kStray;
    if (tables(Alphabet::kAny).kind[static_cast<unsigned char>(c)] == kBinary) {
      fail_binary(static_cast<unsigned char>(c));
    }
  }
  ++column_;
  return at + 1;
}

// Headers and stray first lines are kept, comments are not; all end at a line feed or carriage return.
const char* FastaParser::rest_of_line(const char* at, const char* end) {
  const char* stop = std::find_if(at, end, [](char c) { return c == '\n' || c == '\r' || c == '\0'; });
  if (state_ != State::kComment) {
    text_.append(at, stop);
    if (state_ == State::kStray && text_.size() >= kStrayShown) stray_done();
    AXIAL_CHECK(text_.size() <= kMaxHeader, "fasta", "{}:{}: header of over {} bytes; expected FASTA",
                source_, line_, kMaxHeader);
  }
  column_ += stop - at;
  if (stop == end) return end;
  if (*stop == '\0') fail_binary(0);
  if (state_ == State::kHeader) header_done();
  if (state_ == State::kStray) stray_done();
  line_done(*stop);
  return stop + 1;
}

const char* FastaParser::sequence(const char* at, const char* end) {
  const char* newline = static_cast<const char*>(std::memchr(at, '\n', static_cast<size_t>(end - at)));
  const char* stop = newline ? newline : end;
  if (bad_.line != 0 || star_.line != 0 || !plain_run(at, stop)) {
    const char* reached = careful_run(at, stop);
    if (state_ != State::kSequence) return reached;
  }
  if (!newline) return end;
  line_done('\n');
  return newline + 1;
}

bool FastaParser::plain_run(const char* at, const char* end) {
  const auto n = static_cast<size_t>(end - at);
  if (bases_.size() < length_ + n) bases_.resize(std::max(2 * bases_.size(), length_ + n + 4096));
  const std::array<uint8_t, 256>& mapped = tables(options_.alphabet).mapped;
  char* out = bases_.data() + length_;
  unsigned flags = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint8_t m = mapped[static_cast<unsigned char>(at[i])];
    out[i] = static_cast<char>(m);
    flags |= m;
  }
  if (flags & 0x80u) return false;
  length_ += n;
  column_ += static_cast<int64_t>(n);
  return true;
}

const char* FastaParser::careful_run(const char* at, const char* end) {
  for (; at < end; ++at) {
    if (*at == '\r') {
      line_done('\r');
      return at + 1;
    }
    letter(static_cast<unsigned char>(*at));
    ++column_;
  }
  return end;
}

void FastaParser::letter(unsigned char c) {
  const Tables& t = tables(options_.alphabet);
  switch (t.kind[c]) {
    case kSpace:
    case kCr:
      return;
    case kPlain:
      return base(t.mapped[c], false);
    case kAmbiguous:
      return base(t.mapped[c] & 0x7f, true);
    case kGap:
      ++counts_.gaps;
      return;
    case kStar:
      if (star_.line == 0) star_ = here(c);
      return;
    case kAngle:
      fail("fasta", "{}:{}:{}: '>' inside a line; expected headers to start a line", source_, line_,
           column_ + 1);
    case kWrong:
      if (bad_.line == 0) suspect(here(c));
      if (const unsigned char up = upper(c); up >= 'A' && up <= 'Z') {
        base(up, true);
      } else {
        ++other_;
      }
      return;
    case kBinary:
      fail_binary(c);
  }
}

void FastaParser::base(unsigned char mapped, bool foreign) {
  if (star_.line != 0 && bad_.line == 0) suspect(star_);
  if (bases_.size() < length_ + 1) bases_.resize(std::max<size_t>(2 * bases_.size(), 4096));
  bases_[length_++] = static_cast<char>(mapped);
  foreign_ += foreign ? 1 : 0;
  if (bad_.line != 0 && static_cast<int64_t>(length_) >= judged_after_) judge();
}

// A wrong character was met: look at more of the record before saying whether it is protein.
void FastaParser::suspect(const Place& place) {
  bad_ = place;
  judged_after_ = static_cast<int64_t>(length_) + kJudgedLetters;
}

void FastaParser::judge() {
  const double share = length_ > 0 ? static_cast<double>(foreign_) / static_cast<double>(length_) : 0;
  const bool protein = other_ == 0 && share > 0.4;
  fail("fasta",
       "{}:{}:{}: not a nucleotide code in record '{}'{}; expected A C G T U, an IUPAC code or a gap, got {}",
       source_, bad_.line, bad_.column, name_,
       protein ? fmt::format(": {:.0f} % of its letters are not A C G T U N, this looks like protein",
                             100 * share)
               : std::string(),
       shown(bad_.character));
}

void FastaParser::line_done(char terminator) {
  ++line_;
  column_ = 0;
  after_cr_ = terminator == '\r';
  state_ = State::kLineStart;
}

void FastaParser::header_done() {
  const std::string_view text = text_;
  size_t begin = 0;
  while (begin < text.size() && is_blank(text[begin])) ++begin;
  size_t stop = begin;
  while (stop < text.size() && !is_blank(text[stop])) ++stop;
  name_ = text.substr(begin, stop - begin);
  while (stop < text.size() && is_blank(text[stop])) ++stop;
  size_t last = text.size();
  while (last > stop && is_blank(text[last - 1])) --last;
  description_ = text.substr(stop, last - stop);
  if (name_.empty()) {
    ++counts_.unnamed;
    name_ = fmt::format("unnamed_{}", header_line_);
  }
}

void FastaParser::stray_done() {
  std::string_view text = std::string_view(text_).substr(0, kStrayShown);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto u = static_cast<unsigned char>(text[i]);
    column_ = stray_column_ + static_cast<int64_t>(i);
    if (tables(Alphabet::kAny).kind[u] == kBinary) fail_binary(u);
  }
  const char* guess = "";
  if (text.starts_with('@')) guess = " (this looks like FASTQ)";
  if (text.starts_with("#NEXUS")) guess = " (this looks like NEXUS)";
  if (text.starts_with("LOCUS ")) guess = " (this looks like GenBank)";
  if (text.starts_with("##fileformat=VCF")) guess = " (this looks like VCF)";
  fail("fasta", "{}:{}: text before the first header{}; expected a line that starts with '>', got '{}'",
       source_, line_, guess, text);
}

void FastaParser::record_done() {
  if (!in_record_) return;
  if (bad_.line != 0) judge();
  // Protein can consist of letters that are ambiguity codes too; no nucleotide record has half of those.
  if (length_ >= 30 && 2 * foreign_ > static_cast<int64_t>(length_)) {
    fail("fasta",
         "{}:{}: {} of {} letters of record '{}' are not A C G T U N; expected nucleotides, this looks like "
         "protein",
         source_, header_line_, foreign_, length_, name_);
  }
  if (length_ == 0) {
    ++counts_.empty;
    if (counts_.empty_names.size() < kNamesKept) counts_.empty_names.push_back(name_);
  } else {
    ++counts_.records;
    counts_.bases += static_cast<int64_t>(length_);
    on_record_({name_, description_, {bases_.data(), length_}, header_line_});
  }
  in_record_ = false;
  length_ = 0;
  foreign_ = 0;
  other_ = 0;
  star_ = {};
}

void FastaParser::finish() {
  if (state_ == State::kBom && bom_bytes_ > 0) fail_binary(0xef);
  if (state_ == State::kStray) stray_done();
  if (state_ == State::kHeader) header_done();
  record_done();
  AXIAL_CHECK(counts_.records + counts_.empty > 0, "fasta", "'{}' has no record; expected FASTA, got {}",
              source_, line_ == 1 && column_ == 0 ? "an empty file" : "only blank lines or comments");
}

void FastaParser::fail_binary(unsigned char c) const {
  fail("fasta", "{}:{}:{}: binary data; expected FASTA text, got byte 0x{:02x}", source_, line_, column_ + 1,
       c);
}

FastaCounts read_fasta(const std::filesystem::path& path, FastaOptions options,
                       const FastaParser::OnRecord& on_record,
                       const std::function<void(int64_t)>& on_stored) {
  FastaParser parser(path.string(), options, on_record);
  for_each_piece(
      path, [&](std::string_view piece) { parser.feed(piece); }, on_stored);
  parser.finish();
  return parser.counts();
}

}  // namespace axial::data
