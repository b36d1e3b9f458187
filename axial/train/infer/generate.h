// SPDX-License-Identifier: Apache-2.0
// New sequences from a causal model with cached keys and values. `axial generate` decodes and prints them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "axial/models/common/registry.h"
#include "axial/train/infer/sample.h"

namespace axial::train {

/// What is generated.
struct GenerateOptions {
  int64_t count = 1;         ///< sequences
  int64_t max_tokens = 256;  ///< new tokens per sequence
  int64_t min_tokens = 0;    ///< no stop before this many new tokens
  int64_t batch = 16;        ///< sequences decoded together
  int64_t seed = 0;
  SamplingOptions sampling;

  template <class V>
  void fields(V& v) {
    v("count", count, "sequences to generate");
    v("max_tokens", max_tokens, "new tokens per sequence at most");
    v("min_tokens", min_tokens, "new tokens before a sequence may stop");
    v("batch", batch, "sequences decoded together; does not change the draws");
    v("seed", seed, "of all draws");
    v("sampling", sampling, "how a token is chosen");
  }
  void validate() const;  ///< throws ValueError
};

/// What the tokenizer says about ids.
struct GenerateIds {
  std::vector<int32_t> prompt;   ///< tokens that are given, at least one
  std::vector<int32_t> special;  ///< never emitted: special tokens and whatever is no symbol of a sequence
  std::vector<int32_t> end;      ///< stop without being emitted (end of record)
  std::vector<int32_t> stop;     ///< stop and are emitted (stop codons)
};

/// One generated sequence.
struct Generated {
  enum class Stop { kEnd, kStopToken, kLength };
  int64_t index = 0;
  std::vector<int32_t> ids;   ///< new tokens, without the prompt and the end token
  double log_likelihood = 0;  ///< of all drawn tokens, the end token included, at temperature 1
  Stop stop = Stop::kLength;
};

/// Generate `count` sequences, in order of index. The draw at position p of sequence s is a function of
/// (seed, s, p) alone, so neither the batch size nor the other sequences matter (logits themselves may differ
/// in the last bits between batch sizes). `ranks`, over which the model is split, decode together: `data`
/// shares out the sequences, the other axes keys and values, and all are told all sequences. Memory: keys and
/// values of `batch` sequences. Throws ValueError when prompt and max_tokens exceed the model's
/// max_positions, and for ZeRO-3 over ranks of `data`, which decode different numbers of tokens.
void generate(const models::Model& model, const GenerateIds& ids, const GenerateOptions& options,
              const std::function<void(const Generated&)>& on_sequence,
              parallel::Communicator* ranks = nullptr);

}  // namespace axial::train
