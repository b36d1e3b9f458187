// SPDX-License-Identifier: Apache-2.0
// From tensors to the parameters of kernels/attention: checks, leading dims merged, intervals of keys.
// attention.cpp calls it; on Meta it sizes the workspace without data.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "axial/kernels/attention/attention.h"
#include "axial/ops/attention/attention.h"
#include "axial/ops/attention/pairs.h"

namespace axial::ops::detail {

/// The differentiable arguments.
struct AttentionArguments {
  at::Tensor q, k, v;
  OptionalTensor bias1, bias2;
  AttentionPattern pattern;
  double scale = 1;
};

/// Everything that can be said of shapes and dtypes, symbolic ones included. Throws ValueError.
void check_attention(const AttentionArguments& args);

/// Leading dims from the last to the first: dim d is merged into the next where every tensor walks both with
/// one stride, and dropped where its size is 1. `dims` are those left, with the sizes of what they hold.
struct MergedDims {
  std::vector<size_t> dims;
  std::vector<int64_t> sizes;
};
MergedDims merge_dims(at::IntArrayRef leading, const std::vector<at::IntArrayRef>& strides);

/// The same call with few enough leading dims for the kernels, by copies where more of them than kMaxLeading
/// do not merge: rare, and differentiable. Call it before autograd.
AttentionArguments with_few_leading_dims(AttentionArguments args);

/// Kernel parameters of a call. Leading dims of all tensors that it was told of are merged where they can be.
class AttentionProblem {
 public:
  explicit AttentionProblem(const AttentionArguments& args);
  AttentionProblem(const AttentionProblem&) = delete;
  AttentionProblem& operator=(const AttentionProblem&) = delete;

  /// Tell of another tensor [X.., rows, heads, D] (an output, a gradient); valid after finish().
  void bind(const at::Tensor& tensor, kernels::AttentionTensor& to);
  /// Of a bias's gradient, in the bias's own shape.
  void bind_bias(const at::Tensor& tensor, kernels::AttentionBias& to);
  /// Merge the leading dims and write all strides.
  void finish();

  kernels::AttentionInputs in;

 private:
  struct Strides {
    std::vector<int64_t> of;  // per leading dim
    int64_t* to;
  };
  void add_strides(at::IntArrayRef strides, int64_t* to);
  void bind_index(const at::Tensor& index, int64_t items, std::string_view name, kernels::AttentionIndex& to);
  void bind_intervals(const AttentionPattern& pattern);
  void bind_intervals_by_position(const AttentionPattern& pattern, const std::vector<int64_t>& borders);
  void bind_mask(const AttentionPattern& pattern);

  bool meta_ = false;
  std::vector<int64_t> leading_;
  std::vector<Strides> strides_;
  std::vector<at::Tensor> kept_;
  std::vector<int64_t> begin_, end_;
};

/// Pairs of all heads and leading elements of a call whose problem is finished. Known pairs, else on the host
/// the intervals, on Meta what order, window and as many segments of one size say (all pairs where key_begin
/// and key_end say it). A block mask, and keys that a bias hides, count as seen.
KnownPairs all_pairs(const AttentionArguments& args, const kernels::AttentionInputs& in);

}  // namespace axial::ops::detail
