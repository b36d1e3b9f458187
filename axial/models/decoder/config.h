// SPDX-License-Identifier: Apache-2.0
// Settings of the causal decoder: one model that covers GPT-2, GPT-NeoX (GenSLM), BLOOM and Llama shapes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "axial/core/recipe/recipe.h"
#include "axial/kernels/activation/activation.h"
#include "axial/models/common/layers.h"
#include "axial/parallel/sequence_attention/record_mask.h"

namespace axial::models {

/// How a decoder knows positions.
enum class PositionKind { kLearned, kRotary, kAlibi };
/// How rotary wavelengths were stretched for a longer context.
enum class RotaryScaling { kNone, kLinear, kLlama3 };
/// The pointwise part of a feed-forward layer; the last three have a gate.
enum class FeedForwardKind { kGelu, kGeluTanh, kSilu, kRelu, kSwiglu, kGeglu, kGegluTanh };

}  // namespace axial::models

template <>
struct axial::recipe::EnumNames<axial::models::PositionKind> {
  using E = axial::models::PositionKind;
  static constexpr std::pair<std::string_view, E> names[] = {
      {"learned", E::kLearned}, {"rotary", E::kRotary}, {"alibi", E::kAlibi}};
};
template <>
struct axial::recipe::EnumNames<axial::models::RotaryScaling> {
  using E = axial::models::RotaryScaling;
  static constexpr std::pair<std::string_view, E> names[] = {
      {"none", E::kNone}, {"linear", E::kLinear}, {"llama3", E::kLlama3}};
};
template <>
struct axial::recipe::EnumNames<axial::models::FeedForwardKind> {
  using E = axial::models::FeedForwardKind;
  static constexpr std::pair<std::string_view, E> names[] = {
      {"gelu", E::kGelu},     {"gelu_tanh", E::kGeluTanh}, {"silu", E::kSilu},           {"relu", E::kRelu},
      {"swiglu", E::kSwiglu}, {"geglu", E::kGeglu},        {"geglu_tanh", E::kGegluTanh}};
};

namespace axial::models {

/// Rotary position embedding (Su et al., 2021).
struct RotaryOptions {
  double fraction = 1.0;  ///< share of each head that is rotated
  double base = 10000.0;  ///< wavelength base ("theta")
  RotaryScaling scaling = RotaryScaling::kNone;
  double factor = 1.0;                    ///< of linear and llama3: how much longer the context became
  double low_freq_factor = 1.0;           ///< of llama3
  double high_freq_factor = 4.0;          ///< of llama3
  int64_t original_max_positions = 8192;  ///< of llama3: context length before the extension

  template <class V>
  void fields(V& v) {
    v("fraction", fraction, "share of each head that is rotated, in (0, 1]");
    v("base", base, "base of the wavelengths (theta)");
    v("scaling", scaling, "how wavelengths were stretched for a longer context");
    v("factor", factor, "linear, llama3: how much longer the context became");
    v("low_freq_factor", low_freq_factor, "llama3: wavelengths above original / this are stretched fully");
    v("high_freq_factor", high_freq_factor, "llama3: wavelengths below original / this stay");
    v("original_max_positions", original_max_positions, "llama3: context before the extension");
  }

  /// Inverse wavelengths for heads of width `head_dim`: half as many as rotated entries.
  std::vector<double> frequencies(int64_t head_dim) const;
  /// Throws ValueError.
  void validate(int64_t head_dim) const;
};

/// Which earlier tokens of its record a token sees, in all layers.
struct AttentionMaskOptions {
  int64_t window = 0;           ///< those at most this far back; 0: all
  std::vector<int64_t> global;  ///< beside a window: places of a record that see and are seen by all
  std::string file;             ///< NumPy file, bool [N, N]: of a place (row) the places it sees
  std::string digest;           ///< of the file's content; empty: not known yet
  int64_t host_tokens = parallel::kMaskHostTokens;  ///< RecordMask; no part of a model that is saved

  template <class V>
  void fields(V& v) {
    v("window", window, "tokens at most this far back; 0: all");
    v("global", global, "with a window: places of a record, from 0, that see and are seen by all later ones");
    v("host_tokens", host_tokens,
      "longer rows keep the pairs of a mask that is neither a window nor blocks in memory of the host, one "
      "bit "
      "each; others as fp32 on the device");
    v("digest", digest, "of the file's content, filled in: another content is another model");
    v("file", file,
      "instead: .npy file, bool [N, N], row = a place of a record, column = whether it sees that place");
  }

  friend bool operator==(const AttentionMaskOptions&, const AttentionMaskOptions&) = default;
  /// Throws ValueError.
  void validate(int64_t max_positions) const;
  /// Give `file` its place from any folder, and compare its content with `digest` or fill that in. Throws
  /// IoError, ValueError for another content.
  void find_file();
};

/// The whole decoder. Zero means "derived" where a field says so.
struct DecoderConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  ///< 0: num_heads
  int64_t head_dim = 0;      ///< 0: hidden_size / num_heads
  int64_t ffn_size = 0;      ///< 0: 4 * hidden_size
  int64_t max_positions = 2048;
  PositionKind position = PositionKind::kRotary;
  RotaryOptions rotary;
  AttentionMaskOptions attention_mask;
  Norm::Kind norm = Norm::Kind::kLayerNorm;
  double norm_eps = 1e-5;
  bool parallel_residual = false;
  FeedForwardKind activation = FeedForwardKind::kGelu;
  bool tied_embeddings = false;
  bool qkv_bias = true;
  bool out_bias = true;
  bool ffn_bias = true;
  bool head_bias = false;
  bool embedding_norm = false;
  double embedding_dropout = 0.0;
  double residual_dropout = 0.0;
  double attention_dropout = 0.0;
  double init_std = 0.02;
  bool scaled_residual_init = false;

  template <class V>
  void fields(V& v) {
    v("vocab_size", vocab_size, "number of token ids");
    v("hidden_size", hidden_size, "width of the residual stream");
    v("num_layers", num_layers, "number of layers");
    v("num_heads", num_heads, "query heads");
    v("num_kv_heads", num_kv_heads, "key/value heads, a divisor of num_heads; 0: num_heads");
    v("head_dim", head_dim, "width of a head; 0: hidden_size / num_heads");
    v("ffn_size", ffn_size, "inner width of the feed-forward part; 0: 4 * hidden_size");
    v("max_positions", max_positions, "longest record; rows of the table when position is learned");
    v("position", position, "how positions are known");
    v("rotary", rotary, "of position: rotary");
    v("attention_mask", attention_mask, "which earlier tokens of its record a token sees; default: all");
    v("norm", norm, "normalisation of the stream");
    v("norm_eps", norm_eps, "added to the variance");
    v("parallel_residual", parallel_residual, "attention and feed-forward read the same stream");
    v("activation", activation, "of the feed-forward part; the glu ones have a gate");
    v("tied_embeddings", tied_embeddings, "the output head is the token embedding");
    v("qkv_bias", qkv_bias, "bias of the query/key/value projection");
    v("out_bias", out_bias, "bias of the attention output projection");
    v("ffn_bias", ffn_bias, "biases of the feed-forward projections");
    v("head_bias", head_bias, "bias of the output head");
    v("embedding_norm", embedding_norm, "normalise the embeddings (BLOOM)");
    v("embedding_dropout", embedding_dropout, "probability, after the embedding");
    v("residual_dropout", residual_dropout, "probability, on each branch before it joins the stream");
    v("attention_dropout", attention_dropout, "must be 0: attention probabilities are never stored");
    v("init_std", init_std, "standard deviation of initial weights");
    v("scaled_residual_init", scaled_residual_init,
      "divide the standard deviation of projections into the stream by sqrt(2 * num_layers)");
  }

  /// Ranges and combinations; throws ValueError naming the setting.
  void validate() const;
  /// Check, then fill the fields that are derived when zero.
  void complete();

  bool gated() const;  ///< activation has a gate
  /// The pointwise function, gate or not.
  kernels::Activation activation_kind() const;
};

/// Named sizes: genslm_25m, genslm_250m, genslm_2.5b, genslm_25b, genslm_33b (README.md lists them).
std::vector<std::string> decoder_presets();
/// Throws ValueError with the nearest name.
DecoderConfig decoder_preset(const std::string& name);

/// Every setting of a recipe's `model:` with its default and meaning, "preset" first.
std::vector<recipe::Field> decoder_fields();

/// Settings of a recipe's `model:`: an optional "preset" and overrides (and "type": "decoder"); completed and
/// checked. Throws RecipeError or ValueError with paths below "model".
DecoderConfig read_decoder_config(const nlohmann::json& settings);

}  // namespace axial::models
