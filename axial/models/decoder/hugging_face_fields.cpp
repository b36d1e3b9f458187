// SPDX-License-Identifier: Apache-2.0
// Strict reading of config.json and the spellings of rotary embeddings over the releases of transformers.
#include "axial/models/decoder/hugging_face_fields.h"

#include <utility>

namespace axial::models {
namespace {

const nlohmann::json kNull;

struct ActivationName {
  const char* theirs;
  FeedForwardKind ours;
};
constexpr ActivationName kActivationNames[] = {
    {"gelu", FeedForwardKind::kGelu},
    {"gelu_python", FeedForwardKind::kGelu},
    {"gelu_new", FeedForwardKind::kGeluTanh},
    {"gelu_fast", FeedForwardKind::kGeluTanh},
    {"gelu_accurate", FeedForwardKind::kGeluTanh},
    {"gelu_pytorch_tanh", FeedForwardKind::kGeluTanh},
    {"gelu_python_tanh", FeedForwardKind::kGeluTanh},
    {"silu", FeedForwardKind::kSilu},
    {"swish", FeedForwardKind::kSilu},
    {"relu", FeedForwardKind::kRelu},
};

}  // namespace

ForeignConfig::ForeignConfig(const nlohmann::json& json, std::string family)
    : json_(json), family_(std::move(family)) {
  for (const char* name : {"quantization_config", "sliding_window", "pruned_heads"}) {
    const nlohmann::json& value = at({name});
    if (value.is_null() || (value.is_structured() && value.empty())) continue;
    fail<UnsupportedError>("hugging_face",
                           "field '{}' of a {} configuration is not supported; expected none, got {}", name,
                           family_, value.dump());
  }
  require("add_cross_attention", false);
  require("is_encoder_decoder", false);
}

const nlohmann::json& ForeignConfig::at(Names names) const {
  for (const char* name : names) {
    const auto found = json_.find(name);
    if (found != json_.end() && !found->is_null()) return *found;
  }
  return kNull;
}

void ForeignConfig::wrong_type(Names names, const char* expected, const nlohmann::json& got) const {
  fail("hugging_face", "field '{}' of a {} configuration; expected {}, got {}", *names.begin(), family_,
       expected, got.is_null() ? "nothing" : got.dump());
}

int64_t ForeignConfig::integer(Names names, std::optional<int64_t> otherwise) const {
  const nlohmann::json& value = at(names);
  if (value.is_null() && otherwise) return *otherwise;
  if (!value.is_number_integer()) wrong_type(names, "an integer", value);
  return value.get<int64_t>();
}

double ForeignConfig::number(Names names, double otherwise) const {
  const nlohmann::json& value = at(names);
  if (value.is_null()) return otherwise;
  if (!value.is_number()) wrong_type(names, "a number", value);
  return value.get<double>();
}

bool ForeignConfig::flag(Names names, bool otherwise) const {
  const nlohmann::json& value = at(names);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) wrong_type(names, "true or false", value);
  return value.get<bool>();
}

std::string ForeignConfig::word(Names names, const std::string& otherwise) const {
  const nlohmann::json& value = at(names);
  if (value.is_null()) return otherwise;
  if (!value.is_string()) wrong_type(names, "a word", value);
  return value.get<std::string>();
}

void ForeignConfig::require(const char* name, bool value) const {
  if (flag({name}, value) == value) return;
  fail<UnsupportedError>("hugging_face",
                         "field '{}' of a {} configuration is not supported; expected {}, got {}", name,
                         family_, value, !value);
}

FeedForwardKind ForeignConfig::activation(Names names, const std::string& otherwise) const {
  const std::string theirs = word(names, otherwise);
  std::vector<std::string> known;
  for (const ActivationName& name : kActivationNames) {
    if (theirs == name.theirs) return name.ours;
    known.emplace_back(name.theirs);
  }
  fail<UnsupportedError>("hugging_face", "field '{}' of a {} configuration; expected one of {}, got '{}'",
                         *names.begin(), family_, fmt::join(known, ", "), theirs);
}

RotaryOptions ForeignConfig::rotary(double default_fraction) const {
  RotaryOptions rotary;
  rotary.base = number({"rotary_emb_base", "rope_theta"}, 10000.0);
  rotary.fraction = number({"rotary_pct", "partial_rotary_factor"}, default_fraction);
  const nlohmann::json& nested = at({"rope_parameters", "rope_scaling"});
  if (nested.is_null()) return rotary;
  if (!nested.is_object()) wrong_type({"rope_parameters"}, "an object", nested);
  const ForeignConfig rope(nested, family_ + " rope_parameters");
  rotary.base = rope.number({"rope_theta"}, rotary.base);
  rotary.fraction = rope.number({"partial_rotary_factor"}, rotary.fraction);
  const std::string type = rope.word({"rope_type", "type"}, "default");
  if (type == "default") return rotary;
  if (type != "linear" && type != "llama3") {
    fail<UnsupportedError>(
        "hugging_face",
        "field 'rope_type' of a {} configuration; expected default, linear or llama3, got '{}'", family_,
        type);
  }
  rotary.scaling = type == "linear" ? RotaryScaling::kLinear : RotaryScaling::kLlama3;
  rotary.factor = rope.number({"factor"}, 1.0);
  if (type == "llama3") {
    rotary.low_freq_factor = rope.number({"low_freq_factor"}, 1.0);
    rotary.high_freq_factor = rope.number({"high_freq_factor"}, 4.0);
    const int64_t context = integer({"original_max_position_embeddings", "max_position_embeddings"}, 2048);
    rotary.original_max_positions = rope.integer({"original_max_position_embeddings"}, context);
  }
  return rotary;
}

std::string foreign_activation(FeedForwardKind ours, const char* tanh_word) {
  return ours == FeedForwardKind::kGeluTanh ? tanh_word : std::string(recipe::name_of_choice(ours));
}

void write_rotary(const RotaryOptions& rotary, nlohmann::json& hf_config) {
  const bool none = rotary.scaling == RotaryScaling::kNone;
  const std::string word(recipe::name_of_choice(rotary.scaling));
  nlohmann::json rope = {{"rope_type", none ? "default" : word},
                         {"rope_theta", rotary.base},
                         {"partial_rotary_factor", rotary.fraction}};
  nlohmann::json scaling = nullptr;
  if (!none) {
    scaling = {{"rope_type", word}, {"type", word}, {"factor", rotary.factor}};
    rope["factor"] = rotary.factor;
  }
  if (rotary.scaling == RotaryScaling::kLlama3) {
    for (nlohmann::json* object : {&rope, &scaling}) {
      (*object)["low_freq_factor"] = rotary.low_freq_factor;
      (*object)["high_freq_factor"] = rotary.high_freq_factor;
      (*object)["original_max_position_embeddings"] = rotary.original_max_positions;
    }
  }
  hf_config["rope_parameters"] = rope;
  hf_config["rope_scaling"] = scaling;
}

void ExportGate::refuse(const char* setting, const std::string& expected, const std::string& got) const {
  fail<UnsupportedError>("hugging_face", "family '{}' cannot express '{}'; expected {}, got {}", family_,
                         setting, expected, got);
}

void ExportGate::require_no_mask(const DecoderConfig& config) const {
  if (config.attention_mask == AttentionMaskOptions()) return;
  refuse("attention_mask", "none", recipe::options_to_json(config.attention_mask).dump());
}

void ExportGate::require_plain_heads(const DecoderConfig& config) const {
  require("num_kv_heads", config.num_kv_heads, config.num_heads);
  require("head_dim", config.head_dim * config.num_heads, config.hidden_size);
}

}  // namespace axial::models
