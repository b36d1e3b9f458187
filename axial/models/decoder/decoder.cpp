// SPDX-License-Identifier: Apache-2.0
// Cuts the decoder into blocks. Closures share ownership of their layers; layers point into the table,
// which the Model owns and which therefore must outlive every copy of its blocks.
#include "axial/models/decoder/decoder.h"

#include <memory>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/models/decoder/hugging_face.h"
#include "axial/models/decoder/layer.h"
#include "axial/models/decoder/parallelize.h"
#include "axial/parallel/tensor/vocabulary.h"

namespace axial::models {
namespace {

using parallel::Block;
using parallel::NamedTensors;
using parallel::Positions;
using parallel::StepContext;
using parallel::TensorStream;
using parallel::TokenPart;
using parallel::Vocabulary;
using Cut = std::shared_ptr<const parallel::TensorCut>;
using PositionCut = std::shared_ptr<const parallel::PositionCut>;

Block embed_block(const DecoderConfig& config, parallel::ParameterTable& table, const Cut& cut,
                  const PositionCut& position_cut) {
  ParameterScope scope(table);
  const auto normal = parallel::Initializer::normal(config.init_std);
  parallel::Parameter* tokens =
      scope.declare("embed.tokens.weight", {config.vocab_size, config.hidden_size}, normal, true);
  parallel::Parameter* positions = nullptr;
  if (config.position == PositionKind::kLearned) {
    positions = scope.declare(kPositionTable, {config.max_positions, config.hidden_size}, normal, true);
    positions->spec.grows = true;
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
    const TensorStream stream(*cut, context, inputs);
    at::Tensor hidden = Vocabulary(*tokens, stream).embed(inputs.at("tokens"));
    if (positions) hidden.add_(position_rows(*positions, *position_cut, inputs, context, stream));
    if (norm) hidden = (*norm)(hidden);
    if (context.training && dropout > 0.0) {
      hidden = stream_dropout(hidden, dropout, "embed", inputs, context, stream);
    }
    return NamedTensors{{"hidden", hidden}};
  };
  return block;
}

using Mask = std::shared_ptr<const parallel::RecordMask>;

// A window alone needs none: attention has it.
Mask mask_of(const DecoderConfig& config) {
  const AttentionMaskOptions& options = config.attention_mask;
  if (!options.file.empty()) {
    parallel::SeesTable table = parallel::read_sees(options.file);
    AXIAL_CHECK(table.length >= config.max_positions, "decoder",
                "setting 'attention_mask.file'; expected at least max_positions {} places, got {} in '{}'",
                config.max_positions, table.length, options.file);
    return std::make_shared<const parallel::RecordMask>(std::move(table), options.host_tokens);
  }
  if (options.global.empty()) return nullptr;
  return std::make_shared<const parallel::RecordMask>(
      parallel::sees_window_and_global(options.window, options.global), options.host_tokens);
}

Block layer_block(const DecoderConfig& config, int64_t index, parallel::ParameterTable& table, const Cut& cut,
                  const Mask& mask) {
  ParameterScope scope(table);
  const auto layer = std::make_shared<const DecoderLayer>(config, index, scope, cut, mask);
  Block block{layer->name(), {"hidden", "segments", "record_starts"}, {"hidden"}, scope.names(), {}};
  if (config.position == PositionKind::kRotary || mask) block.inputs.emplace_back("positions");
  if (config.residual_dropout > 0.0) block.inputs.insert(block.inputs.end(), {"sample_ids", "row_positions"});
  block.forward = [layer](const NamedTensors& inputs, const StepContext& context) {
    return NamedTensors{{"attended", layer->attention(inputs, context)}};
  };
  block.between = {"attended"};
  TokenPart& part = block.tokens.emplace();
  part.reads = {{"attended", Positions::kStream}};
  if (config.parallel_residual) part.reads["hidden"] = Positions::kStream;
  if (config.residual_dropout > 0.0) {
    part.reads.insert({{"sample_ids", Positions::kNone}, {"row_positions", Positions::kShared}});
  }
  part.writes = {{"hidden", Positions::kStream}};
  part.forward = [layer](const NamedTensors& inputs, const StepContext& context) {
    return NamedTensors{{"hidden", layer->feed_forward(inputs, context)}};
  };
  return block;
}

Block final_norm_block(const DecoderConfig& config, parallel::ParameterTable& table) {
  ParameterScope scope(table);
  const Norm norm = Norm::declare(scope, "final_norm", config.norm, config.hidden_size, config.norm_eps);
  Block block{"final_norm", {"hidden"}, {"hidden"}, scope.names(), {}};
  TokenPart& part = block.tokens.emplace();
  part.reads = part.writes = {{"hidden", Positions::kStream}};
  part.forward = [norm](const NamedTensors& inputs, const StepContext&) {
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
  const auto block = [&](const std::string& name, std::vector<std::string> inputs,
                         const std::map<std::string, Positions>& outputs, auto finish) {
    Block made{name, std::move(inputs), {}, scope.names(), {}};
    for (const auto& [output, how] : outputs) made.outputs.push_back(output);
    TokenPart& part = made.tokens.emplace();
    for (const std::string& input : made.inputs) {
      part.reads[input] = input == "hidden" ? Positions::kStream : Positions::kRows;
    }
    part.writes = outputs;
    part.forward = [=, cut = Cut(model.cut)](const NamedTensors& inputs, const StepContext& context) {
      const TensorStream stream(*cut, context, inputs);
      const Vocabulary vocabulary(*head.weight, stream);
      return finish(vocabulary, head(vocabulary.enter(inputs.at("hidden"))), inputs);
    };
    model.heads.emplace(name, std::move(made));
  };
  using at::Tensor;
  block("loss", {"hidden", "labels"}, {{"loss_sum", Positions::kSum}, {"loss_weight", Positions::kSum}},
        [](const Vocabulary& vocabulary, const Tensor& logits, const NamedTensors& inputs) {
          const ops::LossSum sum = vocabulary.cross_entropy(logits, inputs.at("labels"));
          return NamedTensors{{"loss_sum", sum.sum}, {"loss_weight", sum.weight}};
        });
  block(
      "log_likelihood", {"hidden", "labels"}, {{"log_likelihood", Positions::kRows}},
      [](const Vocabulary& vocabulary, const Tensor& logits, const NamedTensors& inputs) {
        return NamedTensors{{"log_likelihood", vocabulary.token_log_likelihood(logits, inputs.at("labels"))}};
      });
  block("logits", {"hidden"}, {{"logits", Positions::kRows}},
        [](const Vocabulary& vocabulary, const Tensor& logits, const NamedTensors&) {
          return NamedTensors{{"logits", vocabulary.whole_logits(logits)}};
        });
}

}  // namespace

Model build_decoder(const DecoderConfig& config) {
  Model model;
  model.type = "decoder";
  model.config = recipe::options_to_json(config);
  model.config["attention_mask"].erase("host_tokens");  // where a mask lies changes nothing that is learned
  model.parameters = std::make_unique<parallel::ParameterTable>();
  model.batch_names = {"tokens",     "labels",        "positions",     "segments",
                       "sample_ids", "row_positions", "record_starts", "later_records"};
  model.cut = std::make_shared<parallel::TensorCut>();
  model.position_cut = std::make_shared<parallel::PositionCut>();
  model.trunk.push_back(embed_block(config, *model.parameters, model.cut, model.position_cut));
  const Mask mask = mask_of(config);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    model.trunk.push_back(layer_block(config, i, *model.parameters, model.cut, mask));
  }
  model.trunk.push_back(final_norm_block(config, *model.parameters));
  add_heads(config, model);
  return model;
}

void register_decoder(ModelRegistry& registry) {
  ModelEntry entry;
  entry.build = [](const nlohmann::json& settings) { return build_decoder(read_decoder_config(settings)); };
  entry.parallelize = parallelize_decoder;
  entry.hugging_face = decoder_hugging_face();
  entry.fields = decoder_fields();
  entry.training_settings = {"embedding_dropout", "residual_dropout", "init_std", "scaled_residual_init",
                             "max_positions"};
  entry.growing_settings = {"max_positions"};
  registry.add("decoder", std::move(entry));
}

}  // namespace axial::models
