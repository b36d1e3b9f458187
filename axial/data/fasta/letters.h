// SPDX-License-Identifier: Apache-2.0
// What each byte of a sequence line is and what it is read as, per alphabet: the tables behind fasta.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "axial/data/fasta/fasta.h"

namespace axial::data::letters {

enum Kind : uint8_t { kPlain, kAmbiguous, kGap, kStar, kSpace, kCr, kAngle, kWrong, kBinary };

struct Tables {
  std::array<uint8_t, 256> mapped{};  // upper case; bit 7: not a plain letter, see kind
  std::array<Kind, 256> kind{};
};

constexpr unsigned char upper(unsigned char c) {
  return c >= 'a' && c <= 'z' ? static_cast<unsigned char>(c - 32) : c;
}

constexpr Tables make_tables(Alphabet alphabet) {
  Tables t;
  const std::string_view plain = "ACGTUNX";
  const std::string_view ambiguous = "RYSWKMBDHV";
  for (int i = 0; i < 256; ++i) {
    const auto c = static_cast<unsigned char>(i);
    const unsigned char up = upper(c);
    const bool printable = c > ' ' && c < 127;
    Kind kind = printable ? kWrong : kBinary;
    if (c == ' ' || c == '\t' || c == '\v' || c == '\f') kind = kSpace;
    if (c == '\r') kind = kCr;
    if (c == '>') kind = kAngle;
    if (alphabet == Alphabet::kAny) {
      if (kind == kWrong) kind = kPlain;
    } else {
      if (plain.find(static_cast<char>(up)) != std::string_view::npos) kind = kPlain;
      if (ambiguous.find(static_cast<char>(up)) != std::string_view::npos) kind = kAmbiguous;
      if (c == '-' || c == '.') kind = kGap;
      if (c == '*') kind = kStar;
    }
    unsigned char out = up;
    if (alphabet == Alphabet::kNucleotide && up == 'U') out = 'T';
    if (alphabet == Alphabet::kNucleotide && up == 'X') out = 'N';
    t.kind[i] = kind;
    t.mapped[i] = kind == kPlain ? out : static_cast<uint8_t>((out & 0x7f) | 0x80);
  }
  return t;
}

inline constexpr Tables kNucleotideTables = make_tables(Alphabet::kNucleotide);
inline constexpr Tables kAnyTables = make_tables(Alphabet::kAny);

inline const Tables& tables(Alphabet alphabet) {
  return alphabet == Alphabet::kAny ? kAnyTables : kNucleotideTables;
}

}  // namespace axial::data::letters
