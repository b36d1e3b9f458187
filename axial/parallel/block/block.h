// SPDX-License-Identifier: Apache-2.0
// A model is a list of blocks; a block maps named tensors to named tensors. Models make blocks, the
// step runner calls them, and neither knows the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "axial/core/rng/rng.h"

namespace axial::parallel {

class Communicator;
class KeptResults;
class SequenceLayout;

/// Tensors by name, in name order.
using NamedTensors = std::map<std::string, at::Tensor>;

/// Keys and values (or any other state) that blocks keep between calls while decoding.
struct DecodeState {
  at::Tensor lengths;                          ///< [B] int64 on the host: tokens already cached per sequence
  int64_t capacity = 0;                        ///< cache positions per sequence
  std::map<std::string, NamedTensors> blocks;  ///< block name -> its tensors
};

/// What a block may know about the call besides its tensors.
struct StepContext {
  RngKey key;                     ///< of (seed, step): dropout draws from key.child(site)
  bool training = false;          ///< dropout acts
  DecodeState* decode = nullptr;  ///< set while decoding
  Communicator* ranks = nullptr;  ///< for the collectives of a block; set by the runner
  /// Who holds what of the rows, where several ranks share them; set by the runner's caller, outlives the
  /// call.
  const SequenceLayout* sequence = nullptr;
  /// Where attention leaves its results for a recompute of the block, or finds them; set by the runner.
  KeptResults* kept = nullptr;
  /// Attention takes its heads in so many groups, one after the other (MemoryPolicy); set by the runner.
  int64_t head_groups = 1;
};

/// How a tensor lies over positions. B rows; L positions of them on this rank, L' of these in the residual
/// stream here (fewer where it is cut over `tensor`).
enum class Positions {
  kStream,  ///< [B, L', ..]
  kRows,    ///< [B, L, ..], the same on all ranks of `tensor`
  kShared,  ///< [L, ..], one for all rows, the same on all ranks of `tensor`
  kNone,    ///< none in it: whoever asks for some positions gets all of it
  kSum,     ///< one element, a sum over positions; of results alone
};

/// Mathematics of a model: named tensors to named tensors.
using BlockFunction = std::function<NamedTensors(const NamedTensors& inputs, const StepContext& context)>;

/// A part of a block that computes every position by itself: norms, feed-forward, a loss. The runner may call
/// it for some positions at a time (MemoryPolicy::tile_tokens); collectives of it over `tensor` alone.
struct TokenPart {
  std::map<std::string, Positions> reads;   ///< of the block's inputs and of what Block::forward gives
  std::map<std::string, Positions> writes;  ///< exactly the block's outputs
  BlockFunction forward;                    ///< may find more among its inputs than it reads
  /// The stream's positions are cut over `tensor` in even parts; then it reads a kRows or kShared.
  bool cut_stream = false;
};

/// A piece of a model that the runner may cut at. A foreign model is one block.
struct Block {
  std::string name;
  std::vector<std::string> inputs;      ///< tensors it reads, by the names of the stream
  std::vector<std::string> outputs;     ///< tensors it writes; a name it reads may be written anew
  std::vector<std::string> parameters;  ///< its parameters in the ParameterTable
  /// Inputs to outputs; with a token part inputs to `between`, or none: the token part is all there is.
  BlockFunction forward;
  std::vector<std::string> between = {};  ///< what forward gives to the token part; named like no input
  std::optional<TokenPart> tokens = {};   ///< runs after forward
};

/// The outputs of a block from its inputs: forward, then the token part, in one graph.
NamedTensors run_block(const Block& block, NamedTensors inputs, const StepContext& context);

}  // namespace axial::parallel
