// SPDX-License-Identifier: Apache-2.0
// Cuts the decoder into blocks. Closures share ownership of their layers; layers point into the table,
// which the Model owns and which therefore must outlive every copy of its blocks.
#include "axial/models/decoder/decoder.h"

#include <memory>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/models/decoder/hugging_face.h"
#include "axial/models/decoder/layer.h"
#include "axial/ops/cross_entropy/cross_entropy.h"
#include "axial/ops/embedding/embedding.h"

namespace axial::models {
namespace {

using parallel::Block;
using parallel::NamedTensors;
using parallel::StepContext;

Block embed_block(const DecoderConfig& config, parallel::ParameterTable& table) {
  ParameterScope scope(table);
  const auto normal = parallel::Initializer::normal(config.init_std);
  parallel::Parameter* tokens =
      scope.declare("embed.tokens.weight", {config.vocab_size, config.hidden_size}, normal, true);
  parallel::Parameter* positions = nullptr;
  if (config.position == PositionKind::kLearned) {
    positions =
        scope.declare("embed.positions.weight", {config.max_positions, config.hidden_size}, normal, true);
  }
  std::optional<Norm> norm;
  if (config.embedding_norm) {
    norm = Norm::declare(scope, "embed.norm", config.norm, config.hidden_size, config.norm_eps);
  }
  const double dropout = config.embedding_dropout;
  Block block{"embed", {"tokens"}, {"hidden"}, scope.names(), {}};
  if (positions) block.inputs.emplace_back("positions");
  if (dropout > 0.0) block.inputs.insert(block.inputs.end(), {"sample_ids", "row_positions"});
  block.forward = [=](const NamedTensors& inputs, const StepContext& context) {
    at::Tensor hidden = ops::embedding(tokens->value, inputs.at("tokens"));
    if (positions) hidden.add_(ops::embedding(positions->value, inputs.at("positions")));
    if (norm) hidden = (*norm)(hidden);
    if (context.training && dropout > 0.0) hidden = stream_dropout(hidden, dropout, "embed", inputs, context);
    return NamedTensors{{"hidden", hidden}};
  };
  return block;
}

Block layer_block(const DecoderConfig& config, int64_t index, parallel::ParameterTable& table) {
  ParameterScope scope(table);
  const auto layer = std::make_shared<const DecoderLayer>(config, index, scope);
  Block block{layer->name(), {"hidden", "segments", "record_starts"}, {"hidden"}, scope.names(), {}};
  if (config.position == PositionKind::kRotary) block.inputs.emplace_back("positions");
  if (config.residual_dropout > 0.0) block.inputs.insert(block.inputs.end(), {"sample_ids", "row_positions"});
  block.forward = [layer](const NamedTensors& inputs, const StepContext& context) {
    return NamedTensors{{"hidden", layer->forward(inputs, context)}};
  };
  return block;
}

Block final_norm_block(const DecoderConfig& config, parallel::ParameterTable& table) {
  ParameterScope scope(table);
  const Norm norm = Norm::declare(scope, "final_norm", config.norm, config.hidden_size, config.norm_eps);
  Block block{"final_norm", {"hidden"}, {"hidden"}, scope.names(), {}};
  block.forward = [norm](const NamedTensors& inputs, const StepContext&) {
    return NamedTensors{{"hidden", norm(inputs.at("hidden"))}};
  };
  return block;
}

void add_heads(const DecoderConfig& config, Model& model) {
  ParameterScope scope(*model.parameters);
  Linear head;
  if (config.tied_embeddings) {
    model.parameters->alias("head.weight", "embed.tokens.weight");
    head.weight = scope.share("head.weight");
    if (config.head_bias) {
      head.bias = scope.declare("head.bias", {config.vocab_size}, parallel::Initializer::zeros(), false);
    }
  } else {
    head = Linear::declare(scope, "head", config.hidden_size, config.vocab_size, config.head_bias,
                           config.init_std);
  }
  const auto logits = [head](const NamedTensors& inputs) { return head(inputs.at("hidden").flatten(0, 1)); };

  Block loss{"loss", {"hidden", "labels"}, {"loss_sum", "loss_weight"}, scope.names(), {}};
  loss.forward = [logits](const NamedTensors& inputs, const StepContext&) {
    const ops::LossSum sum = ops::cross_entropy(logits(inputs), inputs.at("labels").flatten());
    return NamedTensors{{"loss_sum", sum.sum}, {"loss_weight", sum.weight}};
  };
  Block score{"log_likelihood", {"hidden", "labels"}, {"log_likelihood"}, scope.names(), {}};
  score.forward = [logits](const NamedTensors& inputs, const StepContext&) {
    const at::Tensor& labels = inputs.at("labels");
    const at::Tensor score = ops::token_log_likelihood(logits(inputs), labels.flatten());
    return NamedTensors{{"log_likelihood", score.view(labels.sizes())}};
  };
  Block raw{"logits", {"hidden"}, {"logits"}, scope.names(), {}};
  raw.forward = [logits](const NamedTensors& inputs, const StepContext&) {
    const at::Tensor& hidden = inputs.at("hidden");
    return NamedTensors{{"logits", logits(inputs).unflatten(0, {hidden.size(0), hidden.size(1)})}};
  };
  for (Block* block : {&loss, &score, &raw}) model.heads.emplace(block->name, std::move(*block));
}

}  // namespace

Model build_decoder(const DecoderConfig& config) {
  Model model;
  model.type = "decoder";
  model.config = recipe::options_to_json(config);
  model.parameters = std::make_unique<parallel::ParameterTable>();
  model.batch_names = {"tokens",     "labels",        "positions",    "segments",
                       "sample_ids", "row_positions", "record_starts"};
  model.trunk.push_back(embed_block(config, *model.parameters));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    model.trunk.push_back(layer_block(config, i, *model.parameters));
  }
  model.trunk.push_back(final_norm_block(config, *model.parameters));
  add_heads(config, model);
  return model;
}

void register_decoder(ModelRegistry& registry) {
  ModelEntry entry;
  entry.build = [](const nlohmann::json& settings) { return build_decoder(read_decoder_config(settings)); };
  entry.hugging_face = decoder_hugging_face();
  entry.fields = decoder_fields();
  registry.add("decoder", std::move(entry));
}

}  // namespace axial::models
