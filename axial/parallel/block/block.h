// SPDX-License-Identifier: Apache-2.0
// A model is a list of blocks; a block maps named tensors to named tensors. Models make blocks, the
// step runner calls them, and neither knows the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
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

/// A piece of a model that the runner may cut at. A foreign model is one block.
struct Block {
  std::string name;
  std::vector<std::string> inputs;      ///< tensors it reads, by the names of the stream
  std::vector<std::string> outputs;     ///< tensors it writes; a name it reads may be written anew
  std::vector<std::string> parameters;  ///< its parameters in the ParameterTable
  std::function<NamedTensors(const NamedTensors& inputs, const StepContext& context)> forward;
};

}  // namespace axial::parallel
