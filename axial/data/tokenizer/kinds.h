// SPDX-License-Identifier: Apache-2.0
// The kinds of tokenizer, made by make_tokenizer. Add one: a class here, its file, a line in tokenizer.cpp.
#pragma once

#include <array>

#include "axial/data/tokenizer/tokenizer.h"

namespace axial::data::detail {

/// 64 codons behind the special ids, in GenSLM's order: 69 ids.
class CodonTokenizer final : public Tokenizer {
 public:
  explicit CodonTokenizer(TokenizerOptions options);
  std::vector<int32_t> stop_ids() const override;
  int64_t token_width() const override { return 3; }

 protected:
  void append_symbols(std::string_view sequence, std::vector<int32_t>& out) const override;

 private:
  std::array<uint8_t, 64> id_of_code_{};
};

/// G C A T behind the special ids and GenSLM's "." (never produced from sequences): 10 ids.
class NucleotideTokenizer final : public Tokenizer {
 public:
  explicit NucleotideTokenizer(TokenizerOptions options);

 protected:
  void append_symbols(std::string_view sequence, std::vector<int32_t>& out) const override;

 private:
  std::array<uint8_t, 256> id_of_base_{};
};

/// Byte b has id 5 + b: 261 ids, for proteins and any other text.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(TokenizerOptions options);
  bool reads_nucleotides() const override { return false; }

 protected:
  void append_symbols(std::string_view sequence, std::vector<int32_t>& out) const override;
};

}  // namespace axial::data::detail
