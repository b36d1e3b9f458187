// SPDX-License-Identifier: Apache-2.0
// Sequences <-> token ids: codons and nucleotides with GenSLM's ids, and bytes. The token cache, the
// generator and checkpoints use it: a checkpoint carries to_json() of its tokenizer. No torch.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace axial::data {

/// The ids that every tokenizer shares (GenSLM's): UNK 0, CLS 1, SEP 2, PAD 3, MASK 4.
struct SpecialIds {
  static constexpr int32_t kUnknown = 0;
  static constexpr int32_t kBegin = 1;  ///< CLS, in front of a record
  static constexpr int32_t kEnd = 2;    ///< SEP, behind a record
  static constexpr int32_t kPad = 3;
  static constexpr int32_t kMask = 4;
  static constexpr int32_t kCount = 5;
};

struct TokenizerOptions {
  std::string kind = "codon";
  int64_t frame = 0;
  bool bos = true;
  bool eos = true;
  template <class V>
  void fields(V& v) {
    v("kind", kind, "codon | nucleotide | byte");
    v("frame", frame, "bases skipped in front of the first codon: 0 | 1 | 2; codon only");
    v("bos", bos, "put the begin token (CLS) in front of each record");
    v("eos", eos, "put the end token (SEP) behind each record");
  }
  void validate() const;  ///< throws ValueError
  friend bool operator==(const TokenizerOptions&, const TokenizerOptions&) = default;
};

/// What encoding met, to be reported.
struct EncodeCounts {
  int64_t records = 0;        ///< encoded
  int64_t tokens = 0;         ///< of them, special tokens included
  int64_t unknown = 0;        ///< UNK tokens: codons or bases with an ambiguity code
  int64_t ragged = 0;         ///< records whose length behind the frame is not a multiple of 3
  int64_t dropped_bases = 0;  ///< trailing 1 or 2 bases of those
  int64_t too_short = 0;      ///< records shorter than one token: skipped
};

/// A bijection between symbols of a sequence and ids, plus the special ids.
class Tokenizer {
 public:
  explicit Tokenizer(TokenizerOptions options);
  virtual ~Tokenizer() = default;

  const TokenizerOptions& options() const { return options_; }
  int64_t vocab_size() const { return static_cast<int64_t>(names_.size()); }
  /// "[CLS]", "ATG", "G", "0x41"; throws ValueError when out of range.
  const std::string& token_name(int64_t id) const;
  /// Ids of TAA, TAG, TGA for codons; empty for the others.
  virtual std::vector<int32_t> stop_ids() const { return {}; }
  /// Whether a generator may draw the id: its text is what a sequence line of FASTA holds, capital letters,
  /// '*' and '-'. False for the special ids, nucleotide's '.', other bytes, and ids outside the vocabulary.
  bool may_generate(int64_t id) const;
  /// Whether sequences are nucleotides (upper case, U as T: what FastaParser hands over) or any text.
  virtual bool reads_nucleotides() const { return true; }
  /// Characters that a token stands for.
  virtual int64_t token_width() const { return 1; }

  /// Replace `out` by the ids of a record's sequence with BOS and EOS as the options say.
  /// Returns false, with `out` empty and the record counted as too short, when not one token fits.
  bool encode(std::string_view sequence, std::vector<int32_t>& out, EncodeCounts& counts) const;

  /// The ids of the start of a sequence, to be continued: BOS as the options say, no EOS. Lower case and
  /// spaces are accepted; throws ValueError (with the place) for a character that is no symbol of a
  /// sequence and for codons when the length behind the frame is not a multiple of 3.
  std::vector<int32_t> encode_prompt(std::string_view text) const;

  /// The text of ids: special tokens are left out, UNK gives N (NNN for codons, '?' for bytes).
  /// Throws ValueError for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  /// Kind, options, vocabulary size and a hash of the vocabulary: equal JSON means equal encoding.
  nlohmann::json to_json() const;

 protected:
  /// Append the ids of the symbols of `sequence` (no BOS, EOS); characters that do not fill a token are left.
  virtual void append_symbols(std::string_view sequence, std::vector<int32_t>& out) const = 0;
  void add_symbol(std::string name, std::string text);

 private:
  TokenizerOptions options_;
  std::vector<std::string> names_;
  std::vector<std::string> texts_;  // what an id decodes to
};

/// Make the tokenizer of the options; throws ValueError listing the kinds.
std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerOptions& options);

/// Make the tokenizer that `description` (from to_json) describes; throws ValueError when a key is missing or
/// unknown, or when this version's vocabulary differs from the described one.
std::unique_ptr<Tokenizer> tokenizer_from_json(const nlohmann::json& description);

}  // namespace axial::data
