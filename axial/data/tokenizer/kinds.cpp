// SPDX-License-Identifier: Apache-2.0
// Vocabularies and symbol loops of the tokenizers in kinds.h. Ids follow ramanathanlab/genslm's files.
#include "axial/data/tokenizer/kinds.h"

#include <fmt/format.h>

#include <algorithm>

namespace axial::data::detail {
namespace {

// Codons by id, from 5 on.
constexpr std::string_view kCodons =
    "GGC GCC ATC GAC GAA ATG GTG CTG GTC GCG GAT AAA GGT AAG GAG ACC "
    "AAC GTT ATT GCA CTC CGC GCT CAG CCG TTC GTA TCG GGA AAT TAC CTT "
    "TTG ACG TCC GGG AGC CCC ACA ACT TCT TTA CGT TAT CAA CGG TTT CAC "
    "CCT CCA TGG ATA TCA TGC AGT AGA CAT TGT CTA AGG TAA CGA TGA TAG";

// Two bits of a base, or 64 and more: an or of three shifted codes over 63 tells that one was no base.
constexpr std::array<uint8_t, 256> make_base_codes() {
  std::array<uint8_t, 256> codes{};
  codes.fill(64);
  codes['A'] = 0;
  codes['C'] = 1;
  codes['G'] = 2;
  codes['T'] = codes['U'] = 3;
  return codes;
}
constexpr std::array<uint8_t, 256> kBaseCodes = make_base_codes();

unsigned codon_code(const char* at) {
  const auto code = [&](int i) { return unsigned{kBaseCodes[static_cast<unsigned char>(at[i])]}; };
  return code(0) << 4 | code(1) << 2 | code(2);
}

}  // namespace

CodonTokenizer::CodonTokenizer(TokenizerOptions options) : Tokenizer(std::move(options)) {
  for (size_t at = 0; at < kCodons.size(); at += 4) {
    const std::string codon(kCodons.substr(at, 3));
    id_of_code_[codon_code(codon.data())] = static_cast<uint8_t>(vocab_size());
    add_symbol(codon, codon);
  }
}

std::vector<int32_t> CodonTokenizer::stop_ids() const {
  std::vector<int32_t> ids;
  for (const char* stop : {"TAA", "TAG", "TGA"}) ids.push_back(id_of_code_[codon_code(stop)]);
  return ids;
}

void CodonTokenizer::append_symbols(std::string_view sequence, std::vector<int32_t>& out) const {
  const auto frame = static_cast<size_t>(options().frame);
  const size_t count = sequence.size() > frame ? (sequence.size() - frame) / 3 : 0;
  const size_t old = out.size();
  out.resize(old + count);
  const char* at = sequence.data() + frame;
  for (size_t i = 0; i < count; ++i, at += 3) {
    const unsigned code = codon_code(at);
    out[old + i] = code < 64 ? int32_t{id_of_code_[code]} : SpecialIds::kUnknown;
  }
}

NucleotideTokenizer::NucleotideTokenizer(TokenizerOptions options) : Tokenizer(std::move(options)) {
  for (const char base : std::string_view("GCAT")) {
    id_of_base_[static_cast<unsigned char>(base)] = static_cast<uint8_t>(vocab_size());
    add_symbol(std::string(1, base), std::string(1, base));
  }
  id_of_base_['U'] = id_of_base_['T'];
  add_symbol(".", ".");
}

void NucleotideTokenizer::append_symbols(std::string_view sequence, std::vector<int32_t>& out) const {
  const size_t old = out.size();
  out.resize(old + sequence.size());
  for (size_t i = 0; i < sequence.size(); ++i) {
    out[old + i] = id_of_base_[static_cast<unsigned char>(sequence[i])];
  }
}

ByteTokenizer::ByteTokenizer(TokenizerOptions options) : Tokenizer(std::move(options)) {
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    add_symbol(b > ' ' && b < 127 ? std::string(1, c) : fmt::format("0x{:02x}", b), std::string(1, c));
  }
}

void ByteTokenizer::append_symbols(std::string_view sequence, std::vector<int32_t>& out) const {
  const size_t old = out.size();
  out.resize(old + sequence.size());
  std::transform(sequence.begin(), sequence.end(), out.begin() + static_cast<int64_t>(old),
                 [](char c) { return SpecialIds::kCount + static_cast<unsigned char>(c); });
}

}  // namespace axial::data::detail
