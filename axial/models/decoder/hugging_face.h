// SPDX-License-Identifier: Apache-2.0
// Exchange of the decoder with Hugging Face folders of GPT-2, GPT-NeoX, BLOOM and Llama.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "axial/models/common/registry.h"
#include "axial/models/decoder/config.h"

namespace axial::models {

/// The adapter of the registry: picks the family by "model_type".
HuggingFaceAdapter decoder_hugging_face();

/// How one of our tensors is made of theirs.
enum class WeightForm {
  kSame,
  kTransposed,      ///< GPT-2's Conv1D: [in, out]
  kInterleavedQkv,  ///< rows ordered (head, {q, k, v}, D); ours ({q, k, v}, head, D)
  kStacked,         ///< several of theirs one below the other
};

/// One of our parameters and the foreign tensors that hold it.
struct WeightMap {
  std::string ours;
  std::vector<std::string> theirs;  ///< without the base-model prefix
  WeightForm form = WeightForm::kSame;
  std::vector<int64_t> rows;  ///< of kStacked: rows of each
};

/// One architecture of Hugging Face.
struct HuggingFaceFamily {
  std::string name;    ///< "model_type"
  std::string prefix;  ///< of the base model inside the causal language model; may be absent in files
  DecoderConfig (*import_config)(const nlohmann::json& hf_config);
  nlohmann::json (*export_config)(const DecoderConfig& config);
  std::vector<WeightMap> (*weights)(const DecoderConfig& config);
  std::vector<std::string> ignored;                ///< endings of buffers that hold no weights
  std::map<std::string, std::string> other_names;  ///< "theirs" -> what some files call it
};

HuggingFaceFamily gpt2_family();
HuggingFaceFamily gpt_neox_family();
HuggingFaceFamily bloom_family();
HuggingFaceFamily llama_family();

}  // namespace axial::models
