// SPDX-License-Identifier: Apache-2.0
// Applies a family's weight map in both directions, checking that nothing is missing, left over or of
// another shape.
#include "axial/models/decoder/hugging_face.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>

#include <algorithm>
#include <set>

#include "axial/core/check/check.h"

namespace axial::models {
namespace {

constexpr const char* kOp = "hugging_face";

const std::vector<HuggingFaceFamily>& families() {
  static const std::vector<HuggingFaceFamily> all = {gpt2_family(), gpt_neox_family(), bloom_family(),
                                                     llama_family()};
  return all;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const HuggingFaceFamily& family : families()) names.push_back(family.name);
  return names;
}

const HuggingFaceFamily& family_named(const std::string& name) {
  for (const HuggingFaceFamily& family : families()) {
    if (family.name == name) return family;
  }
  fail<UnsupportedError>(kOp, "no such model family; expected one of {}, got '{}'",
                         fmt::join(family_names(), ", "), name);
}

const HuggingFaceFamily& family_of(const nlohmann::json& hf_config) {
  AXIAL_CHECK(
      hf_config.is_object() && hf_config.contains("model_type") && hf_config["model_type"].is_string(), kOp,
      "config.json has no 'model_type'; expected one of {}", fmt::join(family_names(), ", "));
  return family_named(hf_config["model_type"].get<std::string>());
}

/// Swap the two outer of three row groups: (head, part) <-> (part, head).
at::Tensor swap_rows(const at::Tensor& x, int64_t outer, int64_t inner) {
  return x.unflatten(0, {outer, inner, x.size(0) / (outer * inner)}).transpose(0, 1).flatten(0, 2);
}

std::vector<at::Tensor> to_theirs(const WeightMap& map, const at::Tensor& ours, const DecoderConfig& config) {
  switch (map.form) {
    case WeightForm::kSame:
      return {ours};
    case WeightForm::kTransposed:
      return {ours.t().contiguous()};
    case WeightForm::kInterleavedQkv:
      return {swap_rows(ours, 3, config.num_heads)};
    case WeightForm::kStacked:
      break;
  }
  std::vector<at::Tensor> parts;
  for (const at::Tensor& part : ours.split_with_sizes(map.rows, 0)) parts.push_back(part.contiguous());
  return parts;
}

at::Tensor to_ours(const WeightMap& map, const std::vector<at::Tensor>& theirs, const DecoderConfig& config) {
  switch (map.form) {
    case WeightForm::kSame:
      return theirs[0];
    case WeightForm::kTransposed:
      return theirs[0].t();
    case WeightForm::kInterleavedQkv:
      return swap_rows(theirs[0], config.num_heads, 3);
    case WeightForm::kStacked:
      break;
  }
  return at::cat(theirs, 0);
}

/// Shapes that the foreign tensors of one map must have.
std::vector<std::vector<int64_t>> expected_shapes(const WeightMap& map, const std::vector<int64_t>& ours) {
  std::vector<std::vector<int64_t>> shapes(map.theirs.size(), ours);
  if (map.form == WeightForm::kTransposed) std::reverse(shapes[0].begin(), shapes[0].end());
  if (map.form == WeightForm::kStacked) {
    for (size_t i = 0; i < shapes.size(); ++i) shapes[i][0] = map.rows[i];
  }
  return shapes;
}

/// The name in a file of the causal language model: the head stands beside the base model.
std::string full_name(const HuggingFaceFamily& family, const std::string& theirs) {
  return theirs.starts_with("lm_head.") || theirs.starts_with("embed_out.") ? theirs : family.prefix + theirs;
}

bool ends_with_any(const std::string& name, const std::vector<std::string>& endings) {
  return std::any_of(endings.begin(), endings.end(), [&](const std::string& e) { return name.ends_with(e); });
}

/// One import: the foreign tensors that are there, and those not used yet.
class Import {
 public:
  Import(const HuggingFaceFamily& family, const ForeignWeights& weights)
      : family_(family),
        weights_(weights),
        names_(weights.names.begin(), weights.names.end()),
        unused_(names_) {}

  /// The foreign name in this file: with or without prefix, under either spelling; empty when absent.
  std::string find(const std::string& theirs) const {
    std::vector<std::string> spellings = {family_.prefix + theirs, theirs};
    if (const auto other = family_.other_names.find(theirs); other != family_.other_names.end()) {
      spellings.push_back(family_.prefix + other->second);
      spellings.push_back(other->second);
    }
    for (const std::string& name : spellings) {
      if (names_.count(name)) return name;
    }
    return "";
  }

  /// The name in this file of a tensor that has this shape.
  std::string take(const std::string& theirs, const std::vector<int64_t>& shape) {
    const std::string name = find(theirs);
    AXIAL_CHECK(!name.empty(), kOp, "tensor '{}' of family {} is missing", full_name(family_, theirs),
                family_.name);
    const at::Tensor tensor = weights_.describe(name);
    unused_.erase(name);
    if (!tensor.is_floating_point()) {
      fail<UnsupportedError>(kOp, "tensor '{}' holds integers; expected floating point (not quantised)",
                             name);
    }
    AXIAL_CHECK(tensor.sizes() == at::IntArrayRef(shape), kOp,
                "tensor '{}' has another shape; expected [{}], got [{}]", name, fmt::join(shape, ", "),
                fmt::join(tensor.sizes().vec(), ", "));
    return name;
  }

  void finish() const {
    std::vector<std::string> left;
    for (const std::string& name : unused_) {
      if (!ends_with_any(name, family_.ignored)) left.push_back(name);
    }
    AXIAL_CHECK(left.empty(), kOp,
                "{} tensors have no place in a {} model of this configuration, the first '{}'", left.size(),
                family_.name, left.empty() ? "" : left.front());
  }

 private:
  const HuggingFaceFamily& family_;
  const ForeignWeights& weights_;
  std::set<std::string> names_, unused_;
};

using Reader = std::function<at::Tensor()>;

/// Reads an embedding, and the head that should be the same; `name` is the head's.
Reader tied_reader(Reader embedding, Reader head, std::string name) {
  return [embedding = std::move(embedding), head = std::move(head), name = std::move(name)] {
    at::Tensor value = embedding();
    AXIAL_CHECK(at::equal(head().to(value.scalar_type()), value), kOp,
                "tensor '{}' differs from the embedding although config.json ties them (tie_word_embeddings)",
                name);
    return value;
  };
}

parallel::ParameterReaders import_weights(const nlohmann::json& hf_config, const ForeignWeights& weights,
                                          const parallel::ParameterTable& table) {
  const HuggingFaceFamily& family = family_of(hf_config);
  DecoderConfig config = family.import_config(hf_config);
  config.complete();
  Import import(family, weights);
  parallel::ParameterReaders readers;
  for (const WeightMap& map : family.weights(config)) {
    const parallel::ParameterSpec& ours = table.at(map.ours).spec;
    const bool tied = ours.name != map.ours;
    if (tied && import.find(map.theirs[0]).empty()) continue;
    const auto shapes = expected_shapes(map, ours.shape);
    std::vector<std::string> names;
    for (size_t i = 0; i < map.theirs.size(); ++i) names.push_back(import.take(map.theirs[i], shapes[i]));
    Reader read = [map, names, config, get = weights.read] {
      std::vector<at::Tensor> theirs;
      for (const std::string& name : names) theirs.push_back(get(name));
      return to_ours(map, theirs, config);
    };
    Reader& reader = readers[ours.name];
    reader = tied ? tied_reader(std::move(reader), std::move(read), map.theirs[0]) : std::move(read);
  }
  import.finish();
  return readers;
}

void export_weights(const nlohmann::json& our_config, const std::string& family_name,
                    const parallel::ParameterTable& table, const parallel::ParameterReaders& weights,
                    const std::function<void(const std::string&, const at::Tensor&)>& put) {
  const HuggingFaceFamily& family = family_named(family_name);
  const DecoderConfig config = read_decoder_config(our_config);
  family.export_config(config);
  for (const WeightMap& map : family.weights(config)) {
    if (table.at(map.ours).spec.name != map.ours) continue;
    const std::vector<at::Tensor> theirs =
        to_theirs(map, parallel::read_parameter(weights, map.ours), config);
    for (size_t i = 0; i < theirs.size(); ++i) {
      put(full_name(family, map.theirs[i]), theirs[i].contiguous());
    }
  }
}

}  // namespace

HuggingFaceAdapter decoder_hugging_face() {
  HuggingFaceAdapter adapter;
  adapter.families = family_names();
  adapter.import_config = [](const nlohmann::json& hf_config) {
    DecoderConfig config = family_of(hf_config).import_config(hf_config);
    config.complete();
    return recipe::options_to_json(config);
  };
  adapter.export_config = [](const nlohmann::json& config, const std::string& family) {
    return family_named(family).export_config(read_decoder_config(config));
  };
  adapter.import_weights = import_weights;
  adapter.export_weights = export_weights;
  return adapter;
}

}  // namespace axial::models
