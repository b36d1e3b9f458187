// SPDX-License-Identifier: Apache-2.0
// One decoder layer: attention and feed-forward around a residual stream. Used by decoder.cpp as a block.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "axial/models/common/layers.h"
#include "axial/models/decoder/config.h"
#include "axial/parallel/block/block.h"
#include "axial/parallel/sequence_attention/record_mask.h"
#include "axial/parallel/tensor/heads.h"
#include "axial/parallel/tensor/stream.h"

namespace axial::models {

/// Dropout of the residual stream [B, L', C]; `site` names the place, so every place draws its own.
at::Tensor stream_dropout(const at::Tensor& x, double p, const std::string& site,
                          const parallel::NamedTensors& inputs, const parallel::StepContext& context,
                          const parallel::TensorStream& stream);

/// Sequential: y = x + attention(norm(x)); y + ffn(norm(y)). Parallel: x + attention(norm(x)) +
/// ffn(norm'(x)).
///
/// Parameters under `layers.<i>.`: attention_norm, attention.qkv [(H + 2G) D, C] with rows of all query
/// heads, then key heads, then value heads; attention.out [C, H D]; ffn_norm; ffn.up [F, C], or ffn.gate_up
/// [2F, C] with the gate first; ffn.down [C, F].
///
/// A rank of `tensor` has the heads and features that holdings say; the stream lies as TensorStream says.
class DecoderLayer {
 public:
  /// `mask`: what config.attention_mask says beyond a window; null: nothing.
  DecoderLayer(const DecoderConfig& config, int64_t index, ParameterScope& scope,
               std::shared_ptr<const parallel::TensorCut> cut,
               std::shared_ptr<const parallel::RecordMask> mask);

  /// hidden [B, L', C] -> the stream behind attention, [B, L', C]. Reads "segments" [S + 1], "record_starts"
  /// where ranks share rows (parallel/sequence_attention), with rotary or a mask "positions" [B, L], with
  /// dropout "sample_ids" [B] and "row_positions" [L]. While decoding the layer's keys and values are kept in
  /// context.decode under `name()`, written at lengths[b]; neither of the first two is read then.
  at::Tensor attention(const parallel::NamedTensors& inputs, const parallel::StepContext& context) const;
  /// What attention() gave, "attended" [B, L', C], and of a parallel residual "hidden" -> the stream behind
  /// the feed-forward, [B, L', C]; every position by itself. With dropout as attention().
  at::Tensor feed_forward(const parallel::NamedTensors& inputs, const parallel::StepContext& context) const;

  const std::string& name() const { return name_; }

 private:
  /// [T, C] -> heads of this rank joined, [T, H' * D], before the output projection.
  at::Tensor attend(const at::Tensor& x, const parallel::NamedTensors& inputs,
                    const parallel::StepContext& context, const parallel::TensorStream& stream) const;
  /// [B, L, C] -> features of this rank, [B, L, F'], before the down projection.
  at::Tensor feed(const at::Tensor& x) const;
  /// stream + branch, with dropout on the branch while training.
  at::Tensor join(const at::Tensor& stream, const Linear& projection, const at::Tensor& branch,
                  const std::string& site, const parallel::NamedTensors& inputs,
                  const parallel::StepContext& context, const parallel::TensorStream& tensor) const;

  std::string name_;
  std::shared_ptr<const parallel::TensorCut> cut_;
  std::shared_ptr<const parallel::RecordMask> mask_;
  int64_t window_;
  parallel::HeadCounts heads_;  // of all ranks
  bool parallel_residual_, gated_;
  double dropout_;
  kernels::Activation activation_;
  Norm attention_norm_, ffn_norm_;
  Linear qkv_, out_, up_, down_;
  at::Tensor inv_freq_;                     // [R / 2] fp64 on the host; undefined: no rotary
  std::optional<at::Tensor> alibi_slopes_;  // [H] fp32 on the host
};

}  // namespace axial::models
