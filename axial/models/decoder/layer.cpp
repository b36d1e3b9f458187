// SPDX-License-Identifier: Apache-2.0
// The decoder layer. Few passes over memory: heads are views of the fused projection, queries and keys are
// rotated in one call, biases go into the activation, and residuals into the matrix products.
#include "axial/models/decoder/layer.h"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/ops/activation/activation.h"
#include "axial/ops/dropout/dropout.h"
#include "axial/ops/linear/linear.h"
#include "axial/ops/rotary/rotary.h"
#include "axial/parallel/sequence_attention/cached.h"
#include "axial/parallel/sequence_attention/sequence_attention.h"

namespace axial::models {
namespace {

std::string layer_name(int64_t index) { return "layer." + std::to_string(index); }

// Of the context, or whole rows on this rank.
parallel::SequenceLayout layout_of(const parallel::NamedTensors& inputs,
                                   const parallel::StepContext& context) {
  if (context.sequence) return *context.sequence;
  return parallel::SequenceLayout::whole(std::max<int64_t>(inputs.at("positions").size(1), 1));
}

}  // namespace

at::Tensor stream_dropout(const at::Tensor& x, double p, const std::string& site,
                          const parallel::NamedTensors& inputs, const parallel::StepContext& context,
                          const parallel::TensorStream& stream) {
  return ops::dropout(x, p, context.key.child(site), inputs.at("sample_ids"),
                      stream.own(inputs.at("row_positions"), 0));
}

DecoderLayer::DecoderLayer(const DecoderConfig& config, int64_t index, ParameterScope& scope,
                           std::shared_ptr<const parallel::TensorCut> cut,
                           std::shared_ptr<const parallel::RecordMask> mask)
    : name_(layer_name(index)),
      cut_(std::move(cut)),
      mask_(std::move(mask)),
      window_(mask_ ? 0 : config.attention_mask.window),
      heads_{config.num_heads, config.num_kv_heads, config.head_dim},
      parallel_residual_(config.parallel_residual),
      gated_(config.gated()),
      dropout_(config.residual_dropout),
      activation_(config.activation_kind()) {
  const std::string prefix = "layers." + std::to_string(index) + ".";
  const int64_t width = config.hidden_size;
  const double std = config.init_std;
  const double into_stream =
      config.scaled_residual_init ? std / std::sqrt(2.0 * static_cast<double>(config.num_layers)) : std;

  attention_norm_ = Norm::declare(scope, prefix + "attention_norm", config.norm, width, config.norm_eps);
  qkv_ = Linear::declare(scope, prefix + "attention.qkv", width,
                         (heads_.query + 2 * heads_.key_value) * heads_.width, config.qkv_bias, std);
  out_ = Linear::declare(scope, prefix + "attention.out", heads_.query * heads_.width, width, config.out_bias,
                         into_stream);
  ffn_norm_ = Norm::declare(scope, prefix + "ffn_norm", config.norm, width, config.norm_eps);
  up_ = Linear::declare(scope, prefix + (gated_ ? "ffn.gate_up" : "ffn.up"), width,
                        (gated_ ? 2 : 1) * config.ffn_size, config.ffn_bias, std);
  down_ = Linear::declare(scope, prefix + "ffn.down", config.ffn_size, width, config.ffn_bias, into_stream);
  if (config.position == PositionKind::kRotary)
    inv_freq_ = at::tensor(config.rotary.frequencies(heads_.width), at::kDouble);
  if (config.position == PositionKind::kAlibi) alibi_slopes_ = models::alibi_slopes(heads_.query);
}

at::Tensor DecoderLayer::attention(const parallel::NamedTensors& inputs,
                                   const parallel::StepContext& context) const {
  const parallel::TensorStream tensor(*cut_, context, inputs);
  const at::Tensor& x = inputs.at("hidden");
  const at::Tensor entered = tensor.enter(attention_norm_(x));
  const at::Tensor attended =
      attend(entered.flatten(0, 1), inputs, context, tensor).unflatten(0, {entered.size(0), entered.size(1)});
  return join(x, out_, attended, ".attention", inputs, context, tensor);
}

at::Tensor DecoderLayer::feed_forward(const parallel::NamedTensors& inputs,
                                      const parallel::StepContext& context) const {
  const parallel::TensorStream tensor(*cut_, context, inputs);
  const at::Tensor& y = inputs.at("attended");
  const at::Tensor fed = feed(tensor.enter(ffn_norm_(parallel_residual_ ? inputs.at("hidden") : y)));
  return join(y, down_, fed, ".ffn", inputs, context, tensor);
}

at::Tensor DecoderLayer::join(const at::Tensor& stream, const Linear& projection, const at::Tensor& branch,
                              const std::string& site, const parallel::NamedTensors& inputs,
                              const parallel::StepContext& context,
                              const parallel::TensorStream& tensor) const {
  const bool drop = context.training && dropout_ > 0.0;
  const at::Tensor joined = parallel::row_linear(branch, projection.weight->value, projection.bias_value(),
                                                 drop ? std::nullopt : std::optional(stream), tensor);
  return drop ? stream_dropout(joined, dropout_, name_ + site, inputs, context, tensor).add_(stream) : joined;
}

at::Tensor DecoderLayer::attend(const at::Tensor& x, const parallel::NamedTensors& inputs,
                                const parallel::StepContext& context,
                                const parallel::TensorStream& stream) const {
  const auto local = parallel::RankHeads::held_by(*qkv_.weight, heads_);
  const int64_t num_q = local.num_query(), num_kv = local.num_key_value();
  const auto rows = [&](const at::Tensor& fused) {
    return parallel::projected_rows(fused, local, heads_, stream);
  };
  const std::optional<at::Tensor> bias = qkv_.bias_value();
  const at::Tensor heads = ops::linear(x, rows(qkv_.weight->value), bias ? std::optional(rows(*bias)) : bias)
                               .view({x.size(0), num_q + 2 * num_kv, heads_.width});
  at::Tensor q, k, v;
  if (inv_freq_.defined()) {
    // Queries and keys lie side by side: one rotation for both, one concatenation in the backward pass.
    const auto parts = heads.split_with_sizes({num_q + num_kv, num_kv}, 1);
    const auto rotated = ops::rotary(parts[0], inputs.at("positions").flatten(), inv_freq_)
                             .split_with_sizes({num_q, num_kv}, 1);
    q = rotated[0], k = rotated[1], v = parts[1];
  } else {
    const auto parts = heads.split_with_sizes({num_q, num_kv, num_kv}, 1);
    q = parts[0], k = parts[1], v = parts[2];
  }
  parallel::SequenceAttentionOptions options;
  if (alibi_slopes_) options.alibi_slopes = alibi_slopes_->narrow(0, local.query.begin, num_q);
  options.window = window_;
  if (!context.decode) {
    if (mask_) mask_->add_to(options, inputs, layout_of(inputs, context), q.scalar_type());
    return parallel::sequence_attention(q, k, v, inputs, context, options).flatten(1);
  }
  const std::vector<int64_t> split{inputs.at("hidden").size(0), inputs.at("hidden").size(1)};
  parallel::CachedAttentionOptions cached;
  cached.alibi_slopes = options.alibi_slopes;
  cached.window = window_;
  cached.mask = mask_.get();
  return parallel::cached_sequence_attention(q.unflatten(0, split), k.unflatten(0, split),
                                             v.unflatten(0, split), name_, cached, context)
      .view({q.size(0), q.size(1) * q.size(2)});
}

at::Tensor DecoderLayer::feed(const at::Tensor& x) const {
  if (gated_) return ops::gated_activation(up_(x), activation_);
  return ops::activation(up_.without_bias(x), up_.bias_value(), activation_);
}

}  // namespace axial::models
