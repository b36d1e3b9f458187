// SPDX-License-Identifier: Apache-2.0
// What all tokenizers share: special tokens, counting, prompts, decoding, the description in checkpoints.
#include "axial/data/tokenizer/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/text/text.h"
#include "axial/data/tokenizer/kinds.h"

namespace axial::data {
namespace {

const std::vector<std::string> kKinds{"codon", "nucleotide", "byte"};

std::string hash_of(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += name + '\n';
  return hash_bytes(std::as_bytes(std::span(all.data(), all.size())));
}

bool is_sequence_symbol(char c) { return (c >= 'A' && c <= 'Z') || c == '*' || c == '-'; }

}  // namespace

void TokenizerOptions::validate() const {
  AXIAL_CHECK(std::find(kKinds.begin(), kKinds.end(), kind) != kKinds.end(), "tokenizer",
              "unknown kind; expected one of {}, got '{}'{}", fmt::join(kKinds, ", "), kind,
              did_you_mean(kind, kKinds));
  AXIAL_CHECK(frame >= 0 && frame <= 2, "tokenizer", "frame; expected 0, 1 or 2, got {}", frame);
  AXIAL_CHECK(frame == 0 || kind == "codon", "tokenizer",
              "frame is for codons; expected 0 for kind '{}', got {}", kind, frame);
}

Tokenizer::Tokenizer(TokenizerOptions options) : options_(std::move(options)) {
  for (const char* name : {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"}) add_symbol(name, "");
}

void Tokenizer::add_symbol(std::string name, std::string text) {
  names_.push_back(std::move(name));
  texts_.push_back(std::move(text));
}

const std::string& Tokenizer::token_name(int64_t id) const {
  AXIAL_CHECK(id >= 0 && id < vocab_size(), "tokenizer", "token id out of range; expected 0 to {}, got {}",
              vocab_size() - 1, id);
  return names_[static_cast<size_t>(id)];
}

bool Tokenizer::may_generate(int64_t id) const {
  if (id < SpecialIds::kCount || id >= vocab_size()) return false;
  return std::all_of(texts_[static_cast<size_t>(id)].begin(), texts_[static_cast<size_t>(id)].end(),
                     is_sequence_symbol);
}

bool Tokenizer::encode(std::string_view sequence, std::vector<int32_t>& out, EncodeCounts& counts) const {
  out.clear();
  if (options_.bos) out.push_back(SpecialIds::kBegin);
  const auto begin = static_cast<int64_t>(out.size());
  append_symbols(sequence, out);
  const int64_t symbols = static_cast<int64_t>(out.size()) - begin;
  if (symbols == 0) {
    out.clear();
    ++counts.too_short;
    return false;
  }
  counts.unknown += std::count(out.begin() + begin, out.end(), SpecialIds::kUnknown);
  if (options_.eos) out.push_back(SpecialIds::kEnd);
  const int64_t left = static_cast<int64_t>(sequence.size()) - options_.frame - symbols * token_width();
  if (left > 0) {
    ++counts.ragged;
    counts.dropped_bases += left;
  }
  ++counts.records;
  counts.tokens += static_cast<int64_t>(out.size());
  return true;
}

std::vector<int32_t> Tokenizer::encode_prompt(std::string_view text) const {
  std::string sequence;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') continue;
    const char up = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    AXIAL_CHECK(
        !reads_nucleotides() || std::string_view("ACGTUNRYSWKMBDHV").find(up) != std::string_view::npos,
        "tokenizer", "prompt '{}': character {} is no nucleotide code; expected A C G T U N, got '{}'", text,
        i + 1, c);
    AXIAL_CHECK(is_sequence_symbol(up), "tokenizer",
                "prompt: character {} stands in no sequence; expected letters, * or -, got byte 0x{:02x}",
                i + 1, static_cast<unsigned char>(c));
    sequence += up;
  }
  const int64_t behind = std::max<int64_t>(0, static_cast<int64_t>(sequence.size()) - options_.frame);
  AXIAL_CHECK(behind % token_width() == 0, "tokenizer",
              "prompt of {} bases; expected a multiple of {} behind frame {}, got {} left over",
              sequence.size(), token_width(), options_.frame, behind % token_width());
  std::vector<int32_t> out;
  if (options_.bos) out.push_back(SpecialIds::kBegin);
  append_symbols(sequence, out);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  text.reserve(ids.size() * static_cast<size_t>(token_width()));
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) token_name(id);  // throws
    if (id == SpecialIds::kUnknown) {
      text.append(static_cast<size_t>(token_width()), reads_nucleotides() ? 'N' : '?');
    } else {
      text += texts_[static_cast<size_t>(id)];
    }
  }
  return text;
}

nlohmann::json Tokenizer::to_json() const {
  return {{"kind", options_.kind}, {"frame", options_.frame},    {"bos", options_.bos},
          {"eos", options_.eos},   {"vocab_size", vocab_size()}, {"vocab_hash", hash_of(names_)}};
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerOptions& options) {
  options.validate();
  if (options.kind == "codon") return std::make_unique<detail::CodonTokenizer>(options);
  if (options.kind == "nucleotide") return std::make_unique<detail::NucleotideTokenizer>(options);
  return std::make_unique<detail::ByteTokenizer>(options);
}

std::unique_ptr<Tokenizer> tokenizer_from_json(const nlohmann::json& description) {
  TokenizerOptions options;
  try {
    description.at("kind").get_to(options.kind);
    description.at("frame").get_to(options.frame);
    description.at("bos").get_to(options.bos);
    description.at("eos").get_to(options.eos);
  } catch (const nlohmann::json::exception& error) {
    fail("tokenizer", "cannot read the description of a tokenizer ({}); got {}", error.what(),
         description.dump());
  }
  std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(options);
  const nlohmann::json own = tokenizer->to_json();
  AXIAL_CHECK(own == description, "tokenizer",
              "the description does not fit this version; expected {}, got {}", own.dump(),
              description.dump());
  return tokenizer;
}

}  // namespace axial::data
