// SPDX-License-Identifier: Apache-2.0
// axial::attention over the table of shapes that the kernels are tested and timed with: values and every
// gradient.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "axial/kernels/attention/attention_case.h"
#include "axial/kernels/attention/masking.h"
#include "axial/ops/attention/attention.h"

namespace axial::ops {
namespace {

using at::Tensor;
using kernels::test::AttentionCase;
using kernels::test::AttentionShape;

struct Problem {
  Tensor q, k, v, dout, bias[2];
  AttentionPattern pattern;
  Tensor added;   // ALiBi, [H, I, J]
  Tensor hidden;  // [I, J]
};

Tensor copy(const void* data, at::IntArrayRef sizes, const int64_t* leading, at::IntArrayRef rest) {
  std::vector<int64_t> strides(leading, leading + sizes.size() - rest.size());
  strides.insert(strides.end(), rest.begin(), rest.end());
  return at::from_blob(const_cast<void*>(data), sizes, strides, at::TensorOptions(at::kFloat)).clone();
}

Tensor indices(const int64_t* data, int64_t count) {
  return at::tensor(std::vector<int64_t>(data, data + count), at::kLong);
}

void fill_pattern(const AttentionShape& s, const kernels::AttentionInputs& in, Problem& p) {
  p.hidden = at::zeros({s.queries, s.keys}, at::kBool);
  for (int64_t i = 0; i < s.queries; ++i) {
    const auto keys = kernels::attention::interval_of(in, {}, i);
    for (int64_t j = 0; j < s.keys; ++j) {
      const bool seen = keys.begin <= j && j < keys.end && kernels::attention::sees(in.mask, i, j);
      if (!seen) p.hidden.data_ptr<bool>()[i * s.keys + j] = true;
    }
  }
  if (in.key_begin.data != nullptr) {
    p.pattern.key_begin = indices(in.key_begin.data, s.queries);
    p.pattern.key_end = indices(in.key_end.data, s.queries);
  }
  if (in.mask.query_block > 0) {
    p.pattern.query_block = in.mask.query_block;
    p.pattern.key_block = in.mask.key_block;
    const int64_t rows = (s.queries + in.mask.query_block - 1) / in.mask.query_block;
    p.pattern.mask_rows = indices(in.mask.row_begin, rows + 1);
    p.pattern.mask_columns = indices(in.mask.columns, in.mask.row_begin[rows]);
  }
  if (in.slopes != nullptr) {
    const Tensor slopes = at::tensor(std::vector<float>(in.slopes, in.slopes + s.heads));
    p.pattern.alibi_slopes = slopes;
    const Tensor distance = at::arange(s.keys) - (at::arange(s.queries) + (s.keys - s.queries)).unsqueeze(1);
    p.added = slopes.view({-1, 1, 1}) * distance;
  }
}

Problem problem_of(const AttentionShape& s) {
  AttentionCase c(s, DType::kF32);
  const kernels::AttentionInputs in = c.inputs();
  Problem p;
  const auto tensor = [&](const kernels::AttentionTensor& t, int64_t rows, int64_t heads) {
    std::vector<int64_t> sizes = s.leading;
    sizes.insert(sizes.end(), {rows, heads, s.width});
    return copy(t.data, sizes, t.leading, {t.row, t.head, t.col});
  };
  p.q = tensor(in.q, s.queries, s.heads);
  p.k = tensor(in.k, s.keys, s.kv_heads);
  p.v = tensor(in.v, s.keys, s.kv_heads);
  p.dout = s.ones ? at::ones({1}).expand(p.q.sizes()) : tensor(c.dout(), s.queries, s.heads);
  for (int b = 0; b < 2; ++b) {
    const kernels::AttentionBias& from = in.bias[b];
    if (from.data == nullptr) continue;
    std::vector<int64_t> sizes;
    for (size_t i = 0; i < s.leading.size(); ++i) sizes.push_back(from.leading[i] == 0 ? 1 : s.leading[i]);
    sizes.insert(sizes.end(),
                 {from.head == 0 ? 1 : s.heads, from.query == 0 ? 1 : s.queries, from.key == 0 ? 1 : s.keys});
    p.bias[b] = copy(from.data, sizes, from.leading, {from.head, from.query, from.key});
  }
  fill_pattern(s, in, p);
  return p;
}

// Softmax over stored logits; a query that sees nothing gives 0.
Tensor plain(const Problem& p, const std::vector<Tensor>& t) {
  const int64_t group = t[0].size(-2) / t[1].size(-2);
  const auto heads_first = [](const Tensor& x) { return x.transpose(-2, -3); };
  const Tensor keys = heads_first(t[1].repeat_interleave(group, -2));
  Tensor s =
      at::matmul(heads_first(t[0]), keys.transpose(-1, -2)) / std::sqrt(static_cast<double>(t[0].size(-1)));
  for (size_t b = 3; b < t.size(); ++b) s = s + t[b];
  if (p.added.defined()) s = s + p.added;
  s = s.masked_fill(p.hidden, -INFINITY);
  const Tensor nothing = at::isinf(s).all(-1, true);
  const Tensor probabilities = at::softmax(s.masked_fill(nothing, 0), -1).masked_fill(nothing, 0);
  return heads_first(at::matmul(probabilities, heads_first(t[2].repeat_interleave(group, -2))));
}

std::vector<Tensor> leaves_of(const Problem& p, at::ScalarType type) {
  std::vector<Tensor> leaves;
  for (const Tensor& t : {p.q, p.k, p.v, p.bias[0], p.bias[1]}) {
    if (t.defined()) leaves.push_back(t.to(type, false, true).requires_grad_());
  }
  return leaves;
}

// Output, then the gradient of every leaf.
template <class F>
std::vector<Tensor> results_of(const Problem& p, at::ScalarType type, const F& f) {
  const std::vector<Tensor> leaves = leaves_of(p, type);
  const Tensor out = f(leaves);
  std::vector<Tensor> results{out.detach()};
  for (const Tensor& g : torch::autograd::grad({out}, leaves, {p.dout.to(type)})) results.push_back(g);
  return results;
}

double largest_error(const Tensor& a, const Tensor& exact) {
  return (a.to(at::kDouble) - exact).abs().max().item<double>();
}

TEST(AttentionShapes, OpsAreWithinTwicePlainTorch) {
  for (const AttentionShape& shape : kernels::test::attention_shapes()) {
    SCOPED_TRACE(shape.name);
    const Problem p = problem_of(shape);
    const auto ours = results_of(p, at::kFloat, [&](const std::vector<Tensor>& t) {
      const auto bias = [&](size_t i) { return i < t.size() ? OptionalTensor(t[i]) : std::nullopt; };
      return attention(t[0], t[1], t[2], bias(3), bias(4), p.pattern);
    });
    const auto reference = [&](const std::vector<Tensor>& t) { return plain(p, t); };
    const auto theirs = results_of(p, at::kFloat, reference), exact = results_of(p, at::kDouble, reference);
    for (size_t i = 0; i < ours.size(); ++i) {
      // A bias that is the same for all keys changes nothing: its gradient is a sum of terms that cancel.
      const bool cancels = i > 3 && ours[i].size(-1) == 1 && shape.keys > 1;
      const double terms = cancels ? p.dout.norm().item<double>() : exact[i].abs().max().item<double>();
      EXPECT_LE(largest_error(ours[i], exact[i]), 2 * largest_error(theirs[i], exact[i]) + 0x1p-23 * terms)
          << "result " << i;
      if (cancels) continue;
      const double norm = exact[i].norm().item<double>();
      EXPECT_LE((ours[i] - exact[i]).norm().item<double>(),
                2 * (theirs[i] - exact[i]).norm().item<double>() + 0x1p-23 * norm)
          << "relative L2 of result " << i;
    }
  }
}

}  // namespace
}  // namespace axial::ops
