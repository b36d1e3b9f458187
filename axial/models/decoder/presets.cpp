// SPDX-License-Identifier: Apache-2.0
// Named decoder sizes. GenSLMs (Zvyagin et al., 2022) are GPT-NeoX models over 64 codons and 5 special
// tokens; their feed-forward part is about as wide as the stream, not four times.
#include "axial/core/check/check.h"
#include "axial/core/text/text.h"
#include "axial/models/decoder/config.h"

namespace axial::models {
namespace {

struct Size {
  const char* name;
  int64_t num_layers, hidden_size, num_heads, ffn_size;
};

// The published 25B file says hidden_size 8196, which 64 heads do not divide; 8192 is meant.
// 33B was only ever a Megatron GPT with learned positions (position: learned); 80 heads of 72 give 31.9B.
constexpr Size kGenslm[] = {
    {"genslm_25m", 8, 512, 8, 2048},     {"genslm_250m", 12, 1840, 16, 2048},
    {"genslm_2.5b", 28, 3840, 32, 4096}, {"genslm_25b", 64, 8192, 64, 8000},
    {"genslm_33b", 80, 5760, 80, 23040},
};

}  // namespace

std::vector<std::string> decoder_presets() {
  std::vector<std::string> names;
  for (const Size& size : kGenslm) names.emplace_back(size.name);
  return names;
}

DecoderConfig decoder_preset(const std::string& name) {
  for (const Size& size : kGenslm) {
    if (name != size.name) continue;
    DecoderConfig config;
    config.vocab_size = 69;
    config.hidden_size = size.hidden_size;
    config.num_layers = size.num_layers;
    config.num_heads = size.num_heads;
    config.ffn_size = size.ffn_size;
    config.max_positions = 2048;
    config.position = PositionKind::kRotary;
    config.rotary.fraction = 0.25;
    config.activation = FeedForwardKind::kGeluTanh;
    config.parallel_residual = true;
    return config;
  }
  fail("decoder", "setting 'preset'; expected one of {}, got '{}'{}", fmt::join(decoder_presets(), ", "),
       name, did_you_mean(name, decoder_presets()));
}

}  // namespace axial::models
