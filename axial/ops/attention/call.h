// SPDX-License-Identifier: Apache-2.0
// One call of kernels/attention, forward or backward, with the tensors of its result: what the dispatcher ops
// of attention.cpp (whole results) and of partial.cpp (pieces of keys) run on CPU and Meta.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "axial/ops/attention/problem.h"

namespace axial::ops::detail {

/// The tensors of AttentionPattern, in its order, and its numbers: how schemas carry a pattern.
using PatternTensors = c10::List<std::optional<at::Tensor>>;
PatternTensors tensors_of(const AttentionPattern& pattern);
std::vector<int64_t> numbers_of(const AttentionPattern& pattern);
AttentionPattern pattern_of(const PatternTensors& tensors, at::IntArrayRef numbers);

/// Which of the gradients of q, k, v, bias1 and bias2 are wanted, and they.
using GradientMask = std::array<bool, 5>;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// Output [X.., I, H, D] in `out_dtype` (that of q, or of its sums) and, if asked, statistics [X.., H, I, 2].
std::tuple<at::Tensor, at::Tensor> run_forward(const AttentionArguments& args, at::ScalarType out_dtype,
                                               bool statistics);

/// What a backward is given besides the arguments of its forward.
struct BackwardArguments {
  at::Tensor grad, out, statistics;
  bool merged = false;  ///< out and statistics are those of a merge; gradients come in the dtype of sums
  GradientMask mask{};
};
Gradients run_backward(const AttentionArguments& args, const BackwardArguments& from);

/// Declares the ops of partial.cpp.
void register_partial(torch::Library& registry);

}  // namespace axial::ops::detail
