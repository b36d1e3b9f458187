// SPDX-License-Identifier: Apache-2.0
// Reading config.json strictly, and saying which of our settings a family cannot express. Used by the
// hugging_face_<family>.cpp files.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "axial/core/check/check.h"
#include "axial/models/decoder/config.h"

namespace axial::models {

/// A config.json. Fields have several names over the years: the first that is there (and not null) counts.
class ForeignConfig {
 public:
  using Names = std::initializer_list<const char*>;

  /// Refuse what no family of ours has: quantised weights, windows, cross attention, encoder-decoder.
  ForeignConfig(const nlohmann::json& json, std::string family);

  int64_t integer(Names names, std::optional<int64_t> otherwise = std::nullopt) const;
  double number(Names names, double otherwise) const;
  bool flag(Names names, bool otherwise) const;
  std::string word(Names names, const std::string& otherwise) const;
  /// The value, or null when absent.
  const nlohmann::json& at(Names names) const;
  /// Throw UnsupportedError unless the flag is absent or has the value that the decoder computes.
  void require(const char* name, bool value) const;
  /// The ungated activation called `names` there.
  FeedForwardKind activation(Names names, const std::string& otherwise) const;
  /// Rotary settings in any of the spellings: rope_parameters (transformers 5), rope_scaling with rope_theta,
  /// rotary_pct with rotary_emb_base.
  RotaryOptions rotary(double default_fraction) const;

 private:
  [[noreturn]] void wrong_type(Names names, const char* expected, const nlohmann::json& got) const;

  const nlohmann::json& json_;
  std::string family_;
};

/// Their word for one of our ungated activations; `tanh_word` is the family's habit for gelu_tanh.
std::string foreign_activation(FeedForwardKind ours, const char* tanh_word);

/// Rotary settings in old and new spelling, so that any release of transformers reads them.
void write_rotary(const RotaryOptions& rotary, nlohmann::json& hf_config);

/// Refuses settings that a family cannot express, naming the first.
class ExportGate {
 public:
  explicit ExportGate(const char* family) : family_(family) {}

  template <class T>
  void require(const char* setting, const T& value, const T& expected) const {
    if (value == expected) return;
    if constexpr (std::is_enum_v<T>) {
      refuse(setting, std::string(recipe::name_of_choice(expected)),
             std::string(recipe::name_of_choice(value)));
    } else {
      refuse(setting, fmt::format("{}", expected), fmt::format("{}", value));
    }
  }
  /// Attention to all earlier tokens: no family here has another.
  void require_no_mask(const DecoderConfig& config) const;
  /// Multi-head attention whose heads fill the stream.
  void require_plain_heads(const DecoderConfig& config) const;

 private:
  [[noreturn]] void refuse(const char* setting, const std::string& expected, const std::string& got) const;
  const char* family_;
};

}  // namespace axial::models
