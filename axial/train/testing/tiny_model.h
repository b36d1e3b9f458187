// SPDX-License-Identifier: Apache-2.0
// A small causal model and data for this layer's tests: real mathematics (embedding, a causal mean over the
// record, dropout, tied width), plain ATen, runs on Meta, trains in milliseconds. Tests only.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <string>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"
#include "axial/data/common/batch_source.h"
#include "axial/models/common/registry.h"

namespace axial::train::testing {

inline constexpr int64_t kVocabulary = 11;

namespace detail {

using parallel::NamedTensors;
using parallel::StepContext;

// The same while decoding: what is cached is the sum of all inputs so far, [B, 1, C].
inline at::Tensor mix_cached(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b,
                             parallel::DecodeState& state, const std::string& block) {
  at::Tensor& past = state.blocks[block]["sum"];
  const at::Tensor sums = past.defined() ? x.cumsum(1) + past : x.cumsum(1);
  past = sums.narrow(1, x.size(1) - 1, 1).clone();
  const at::Tensor counts = state.lengths.view({-1, 1, 1}) + at::arange(1, x.size(1) + 1).view({1, -1, 1});
  return at::tanh(at::matmul(sums / counts.to(x.scalar_type()), w) + b) + x;
}

// Causal mean over the positions of a row: h_t = tanh(mean(x_0..x_t) W + b), then keyed dropout.
inline at::Tensor mix(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, double dropout,
                      const StepContext& context, std::string_view site) {
  if (context.decode != nullptr) return mix_cached(x, w, b, *context.decode, std::string(site));
  const int64_t length = x.size(1);
  const at::Tensor mean = at::tril(at::ones({length, length})) / at::arange(1, length + 1).unsqueeze(1);
  at::Tensor out = at::tanh(at::matmul(at::matmul(mean.to(x.options()), x), w) + b) + x;
  if (!context.training || dropout == 0 || x.is_meta()) return out;
  at::Tensor mask = at::empty(x.sizes(), at::TensorOptions(at::kDouble));
  const RngKey key = context.key.child(site);
  auto* m = mask.mutable_data_ptr<double>();
  for (int64_t i = 0; i < mask.numel(); ++i) {
    m[i] = random_uniform(key, static_cast<uint64_t>(i)) < dropout ? 0.0 : 1.0 / (1.0 - dropout);
  }
  return out * mask.to(out.scalar_type());
}

inline at::Tensor log_probabilities(const NamedTensors& in, const parallel::ParameterTable& table) {
  const at::Tensor logits = at::matmul(in.at("hidden"), table.at("out").value);
  return at::log_softmax(logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat), -1);
}

inline at::Tensor label_log_likelihood(const NamedTensors& in, const parallel::ParameterTable& table) {
  const at::Tensor labels = in.at("labels");
  const at::Tensor counts = labels.ge(0);
  const at::Tensor picked =
      log_probabilities(in, table).gather(2, labels.clamp_min(0).unsqueeze(2)).squeeze(2);
  return picked * counts.to(picked.scalar_type());
}

}  // namespace detail

/// Builds the model of {"type": "tiny", "width": C, "dropout": p, "layers": n, "gain": g}; `gain` multiplies
/// the stream before the loss, to provoke fp16 overflow.
inline models::Model build_tiny(const nlohmann::json& config) {
  using detail::NamedTensors;
  using detail::StepContext;
  models::Model model;
  model.type = "tiny";
  model.config = {{"width", config.value("width", 8)},
                  {"dropout", config.value("dropout", 0.0)},
                  {"layers", config.value("layers", 2)},
                  {"gain", config.value("gain", 1.0)},
                  {"max_positions", 16}};
  for (const auto& [key, value] : config.items()) {
    AXIAL_CHECK(model.config.contains(key), "model", "unknown setting '{}'", key);
  }
  const int64_t width = model.config["width"];
  const double dropout = model.config["dropout"];
  const double gain = model.config["gain"];
  model.parameters = std::make_unique<parallel::ParameterTable>();
  parallel::ParameterTable& table = *model.parameters;
  table.declare({"embed", {kVocabulary, width}, parallel::Initializer::normal(0.5), true});
  parallel::Block embed{"embed", {"tokens"}, {"hidden"}, {"embed"}, nullptr};
  embed.forward = [&table](const NamedTensors& in, const StepContext&) {
    return NamedTensors{{"hidden", table.at("embed").value.index({in.at("tokens")})}};
  };
  model.trunk.push_back(embed);
  for (int64_t i = 0; i < model.config["layers"].get<int64_t>(); ++i) {
    const std::string name = "layer." + std::to_string(i);
    table.declare({name + ".weight", {width, width}, parallel::Initializer::normal(0.3), true});
    table.declare({name + ".bias", {width}, parallel::Initializer::zeros(), false});
    parallel::Block layer{name, {"hidden"}, {"hidden"}, {name + ".weight", name + ".bias"}, nullptr};
    layer.forward = [&table, name, dropout](const NamedTensors& in, const StepContext& context) {
      return NamedTensors{{"hidden", detail::mix(in.at("hidden"), table.at(name + ".weight").value,
                                                 table.at(name + ".bias").value, dropout, context, name)}};
    };
    model.trunk.push_back(layer);
  }
  table.declare({"out", {width, kVocabulary}, parallel::Initializer::normal(0.3), true});
  parallel::Block loss{"loss", {"hidden", "labels"}, {"loss_sum", "loss_weight"}, {"out"}, nullptr};
  loss.forward = [&table, gain](const NamedTensors& in, const StepContext&) {
    NamedTensors scaled = in;
    scaled["hidden"] = in.at("hidden") * gain;
    const at::Tensor sum = -detail::label_log_likelihood(scaled, table).sum();
    return NamedTensors{{"loss_sum", sum},
                        {"loss_weight", in.at("labels").ge(0).sum().to(sum.scalar_type())}};
  };
  model.heads["loss"] = loss;
  parallel::Block likelihood{"log_likelihood", {"hidden", "labels"}, {"log_likelihood"}, {"out"}, nullptr};
  likelihood.forward = [&table](const NamedTensors& in, const StepContext&) {
    return NamedTensors{{"log_likelihood", detail::label_log_likelihood(in, table)}};
  };
  model.heads["log_likelihood"] = likelihood;
  parallel::Block logits{"logits", {"hidden"}, {"logits"}, {"out"}, nullptr};
  logits.forward = [&table](const NamedTensors& in, const StepContext&) {
    return NamedTensors{{"logits", at::matmul(in.at("hidden"), table.at("out").value)}};
  };
  model.heads["logits"] = logits;
  model.batch_names = {"tokens", "labels", "positions", "segments", "sample_ids"};
  return model;
}

/// A registry with "tiny" alone; its Hugging Face family "tiny_hf" renames parameters to "hf.<name>".
inline models::ModelRegistry tiny_registry() {
  models::ModelEntry entry;
  entry.build = build_tiny;
  entry.hugging_face.families = {"tiny_hf"};
  entry.hugging_face.import_config = [](const nlohmann::json& hf) { return hf.at("settings"); };
  entry.hugging_face.export_config = [](const nlohmann::json& config, const std::string& family) {
    nlohmann::json settings = config;
    settings.erase("max_positions");
    return nlohmann::json{{"model_type", family}, {"settings", settings}};
  };
  entry.hugging_face.import_weights = [](const nlohmann::json&, const models::ForeignWeights& weights,
                                         const parallel::ParameterTable& table) {
    parallel::ParameterReaders readers;
    for (const auto& row : table.rows()) {
      readers[row->spec.name] = [name = "hf." + row->spec.name, read = weights.read] { return read(name); };
    }
    return readers;
  };
  entry.hugging_face.export_weights = [](const nlohmann::json&, const std::string&,
                                         const parallel::ParameterTable& table, const auto& weights,
                                         const auto& put) {
    for (const auto& row : table.rows()) {
      put("hf." + row->spec.name, parallel::read_parameter(weights, row->spec.name));
    }
  };
  models::ModelRegistry registry;
  registry.add("tiny", entry);
  return registry;
}

/// Rows of a fixed, learnable text: row r continues i -> (3 i + r % 3) mod vocabulary.
class TinySource : public data::BatchSource {
 public:
  explicit TinySource(int64_t rows, int64_t length = 12) : rows_(rows), length_(length) {}
  int64_t num_rows() const override { return rows_; }
  int64_t num_tokens() const override { return rows_ * length_; }
  data::Batch rows(int64_t first, int64_t count) const override {
    const auto options = at::TensorOptions(at::kLong);
    data::Batch batch;
    at::Tensor tokens = at::empty({count, length_}, options);
    at::Tensor labels = at::full({count, length_}, -100, options);
    for (int64_t b = 0; b < count; ++b) {
      const int64_t epoch = (first + b) / rows_;
      const int64_t row = ((first + b) % rows_ + epoch) % rows_;  // another order in every epoch
      int64_t token = row % kVocabulary;
      for (int64_t i = 0; i < length_; ++i) {
        tokens.mutable_data_ptr<int64_t>()[b * length_ + i] = token;
        token = (3 * token + row % 3) % kVocabulary;
        if (i + 1 < length_) labels.mutable_data_ptr<int64_t>()[b * length_ + i] = token;
      }
      batch.record_names.push_back("record " + std::to_string(row));
    }
    batch.weight = static_cast<double>(count * (length_ - 1));
    batch.num_tokens = count * length_;
    batch.tensors = {{"tokens", tokens},
                     {"labels", labels},
                     {"positions", at::arange(length_, options).expand({count, length_}).contiguous()},
                     {"segments", at::arange(0, (count + 1) * length_, length_, options)},
                     {"sample_ids", at::arange(first, first + count, options)}};
    return batch;
  }

 private:
  int64_t rows_;
  int64_t length_;
};

}  // namespace axial::train::testing
