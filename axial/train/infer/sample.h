// SPDX-License-Identifier: Apache-2.0
// Draws one token from a row of logits. Plain C++, used by generate.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace axial::train {

/// How a token is chosen. Applied in the order temperature, top_k, top_p.
struct SamplingOptions {
  double temperature = 1.0;  ///< 0: always the most likely token
  int64_t top_k = 0;         ///< keep this many most likely tokens; 0: all
  double top_p = 1.0;        ///< then keep the fewest most likely whose probability reaches this share

  template <class V>
  void fields(V& v) {
    v("temperature", temperature, "divides the logits; 0: always the most likely token");
    v("top_k", top_k, "keep this many most likely tokens; 0: all");
    v("top_p", top_p, "keep the fewest most likely tokens that reach this probability; 1: all");
  }
  void validate() const;  ///< throws ValueError
};

/// A choice and the natural log-probability that the model (temperature 1, nothing cut, nothing forbidden)
/// gave it.
struct Sampled {
  int32_t id = 0;
  double log_probability = 0;
};

/// Choose by inverse transform of `uniform` in [0, 1): tokens ordered by falling logit, then by id, so that
/// equal logits give equal choices everywhere. Tokens with `forbidden[id]` are never chosen. Throws
/// ValueError when all are forbidden or a logit is not finite.
Sampled sample_token(std::span<const float> logits, const std::vector<bool>& forbidden,
                     const SamplingOptions& options, double uniform);

}  // namespace axial::train
