// SPDX-License-Identifier: Apache-2.0
// Checks of the decoder's settings, the words they may hold, and rotary frequencies.
#include "axial/models/decoder/config.h"

#include <cmath>
#include <filesystem>
#include <numbers>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"

namespace axial::models {
namespace {

using kernels::Activation;

void check_positive(const char* key, int64_t value) {
  AXIAL_CHECK(value > 0, "decoder", "setting '{}'; expected a positive number, got {}", key, value);
}

void check_probability(const char* key, double value) {
  AXIAL_CHECK(value >= 0.0 && value < 1.0, "decoder",
              "setting '{}'; expected a probability in [0, 1), got {}", key, value);
}

/// Llama 3.1: long wavelengths are stretched by `factor`, short ones stay, the rest is blended.
double llama3_frequency(const RotaryOptions& rotary, double frequency) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const double context = static_cast<double>(rotary.original_max_positions);
  if (wavelength < context / rotary.high_freq_factor) return frequency;
  if (wavelength > context / rotary.low_freq_factor) return frequency / rotary.factor;
  const double smooth =
      (context / wavelength - rotary.low_freq_factor) / (rotary.high_freq_factor - rotary.low_freq_factor);
  return (1.0 - smooth) * frequency / rotary.factor + smooth * frequency;
}

int64_t rotated_entries(double fraction, int64_t head_dim) {
  const auto dim = static_cast<int64_t>(static_cast<double>(head_dim) * fraction);
  return (dim + 1) / 2 * 2;
}

}  // namespace

std::vector<double> RotaryOptions::frequencies(int64_t head_dim) const {
  const auto dim = static_cast<double>(static_cast<int64_t>(static_cast<double>(head_dim) * fraction));
  std::vector<double> result;
  for (int64_t i = 0; i < rotated_entries(fraction, head_dim) / 2; ++i) {
    double frequency = std::pow(base, -2.0 * static_cast<double>(i) / dim);
    if (scaling == RotaryScaling::kLinear) frequency /= factor;
    if (scaling == RotaryScaling::kLlama3) frequency = llama3_frequency(*this, frequency);
    result.push_back(frequency);
  }
  return result;
}

void RotaryOptions::validate(int64_t head_dim) const {
  AXIAL_CHECK(fraction > 0.0 && fraction <= 1.0, "decoder",
              "setting 'rotary.fraction'; expected (0, 1], got {}", fraction);
  AXIAL_CHECK(base > 1.0 && std::isfinite(base), "decoder",
              "setting 'rotary.base'; expected a number above 1, got {}", base);
  const int64_t entries = rotated_entries(fraction, head_dim);
  AXIAL_CHECK(entries >= 2 && entries <= head_dim, "decoder",
              "setting 'rotary.fraction'; expected 2 to {} rotated entries of a head, got {} ({} of {})",
              head_dim, entries, fraction, head_dim);
  if (scaling == RotaryScaling::kNone) return;
  AXIAL_CHECK(factor >= 1.0 && std::isfinite(factor), "decoder",
              "setting 'rotary.factor'; expected at least 1, got {}", factor);
  if (scaling != RotaryScaling::kLlama3) return;
  AXIAL_CHECK(
      low_freq_factor > 0.0 && high_freq_factor > low_freq_factor, "decoder",
      "settings 'rotary.low_freq_factor', 'rotary.high_freq_factor'; expected 0 < low < high, got {}, {}",
      low_freq_factor, high_freq_factor);
  check_positive("rotary.original_max_positions", original_max_positions);
}

void AttentionMaskOptions::validate(int64_t max_positions) const {
  AXIAL_CHECK(window >= 0, "decoder", "setting 'attention_mask.window'; expected 0 or more, got {}", window);
  AXIAL_CHECK(host_tokens >= 0, "decoder", "setting 'attention_mask.host_tokens'; expected 0 or more, got {}",
              host_tokens);
  AXIAL_CHECK(global.empty() || window > 0, "decoder",
              "setting 'attention_mask.global'; expected a window beside it, got none");
  for (const int64_t place : global) {
    AXIAL_CHECK(0 <= place && place < max_positions, "decoder",
                "setting 'attention_mask.global'; expected places of [0, {}), got {}", max_positions, place);
  }
  AXIAL_CHECK(file.empty() || window == 0, "decoder",
              "setting 'attention_mask.file'; expected no window beside it, got {}", window);
}

void AttentionMaskOptions::find_file() {
  if (file.empty()) return;
  file = std::filesystem::absolute(file).lexically_normal();
  const std::string content = hash_file(file);
  AXIAL_CHECK(
      digest.empty() || digest == content, "decoder",
      "setting 'attention_mask.file'; expected the content that the model was made with, got another in '{}'",
      file);
  digest = content;
}

bool DecoderConfig::gated() const {
  return activation == FeedForwardKind::kSwiglu || activation == FeedForwardKind::kGeglu ||
         activation == FeedForwardKind::kGegluTanh;
}

Activation DecoderConfig::activation_kind() const {
  switch (activation) {
    case FeedForwardKind::kGelu:
    case FeedForwardKind::kGeglu:
      return Activation::kGeluErf;
    case FeedForwardKind::kGeluTanh:
    case FeedForwardKind::kGegluTanh:
      return Activation::kGeluTanh;
    case FeedForwardKind::kSilu:
    case FeedForwardKind::kSwiglu:
      return Activation::kSilu;
    case FeedForwardKind::kRelu:
      break;
  }
  return Activation::kRelu;
}

void DecoderConfig::validate() const {
  check_positive("vocab_size", vocab_size);
  check_positive("hidden_size", hidden_size);
  check_positive("num_layers", num_layers);
  check_positive("num_heads", num_heads);
  check_positive("max_positions", max_positions);
  AXIAL_CHECK(num_kv_heads >= 0 && (num_kv_heads == 0 || num_heads % num_kv_heads == 0), "decoder",
              "setting 'num_kv_heads'; expected 0 or a divisor of num_heads ({}), got {}", num_heads,
              num_kv_heads);
  AXIAL_CHECK(head_dim >= 0, "decoder", "setting 'head_dim'; expected 0 or more, got {}", head_dim);
  AXIAL_CHECK(head_dim > 0 || hidden_size % num_heads == 0, "decoder",
              "setting 'num_heads'; expected a divisor of hidden_size {}, got {} (or set head_dim)",
              hidden_size, num_heads);
  AXIAL_CHECK(ffn_size >= 0, "decoder", "setting 'ffn_size'; expected 0 or more, got {}", ffn_size);
  if (position == PositionKind::kRotary) rotary.validate(head_dim > 0 ? head_dim : hidden_size / num_heads);
  attention_mask.validate(max_positions);
  AXIAL_CHECK(norm_eps > 0.0 && norm_eps < 1.0, "decoder", "setting 'norm_eps'; expected (0, 1), got {}",
              norm_eps);
  AXIAL_CHECK(init_std >= 0.0 && std::isfinite(init_std), "decoder",
              "setting 'init_std'; expected a number from 0, got {}", init_std);
  check_probability("embedding_dropout", embedding_dropout);
  check_probability("residual_dropout", residual_dropout);
  AXIAL_CHECK(
      attention_dropout == 0.0, "decoder",
      "setting 'attention_dropout'; expected 0, got {}: attention here never stores its probabilities, "
      "so they cannot be dropped; use residual_dropout",
      attention_dropout);
}

void DecoderConfig::complete() {
  validate();
  if (num_kv_heads == 0) num_kv_heads = num_heads;
  if (head_dim == 0) head_dim = hidden_size / num_heads;
  if (ffn_size == 0) ffn_size = 4 * hidden_size;
  attention_mask.find_file();
}

std::vector<recipe::Field> decoder_fields() {
  std::vector<recipe::Field> fields = recipe::fields_of<DecoderConfig>();
  for (recipe::Field& field : fields) {
    if (field.path == "vocab_size") field.doc += "; absent: the tokenizer's";
    if (field.path == "hidden_size" || field.path == "num_layers" || field.path == "num_heads") {
      field.doc += "; required without a preset";
    }
  }
  const std::string names = fmt::format("{}", fmt::join(decoder_presets(), " | "));
  fields.insert(fields.begin(), {"preset", names, "null", "named size that the other keys then change"});
  return fields;
}

DecoderConfig read_decoder_config(const nlohmann::json& settings) {
  AXIAL_CHECK(settings.is_object(), "decoder", "configuration; expected settings by name, got {}",
              settings.dump());
  nlohmann::json rest = settings;
  if (const auto type = rest.find("type"); type != rest.end()) {
    AXIAL_CHECK(*type == "decoder", "decoder", "setting 'type'; expected 'decoder', got {}", type->dump());
    rest.erase("type");
  }
  DecoderConfig base;
  if (const auto preset = rest.find("preset"); preset != rest.end()) {
    AXIAL_CHECK(preset->is_string(), "decoder", "setting 'preset'; expected a name, got {}", preset->dump());
    base = decoder_preset(preset->get<std::string>());
    rest.erase("preset");
  }
  nlohmann::json all = recipe::options_to_json(base);
  all.update(rest, /*merge_objects=*/true);
  DecoderConfig config = recipe::parse<DecoderConfig>(all, "model");
  config.complete();
  return config;
}

}  // namespace axial::models
