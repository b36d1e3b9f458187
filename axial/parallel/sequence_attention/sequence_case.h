// SPDX-License-Identifier: Apache-2.0
// Cases of sequence_attention for its tests: packed rows, whole and as a rank holds them, and plain softmax
// over the whole rows.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <string>
#include <vector>

#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/sequence_attention/sequence_attention.h"

namespace axial::parallel::testing {

struct SequenceCase {
  std::string name;
  int64_t length = 1;
  std::vector<std::vector<int64_t>> records = {
      {1}};  ///< lengths of the records of each row; the rest is padding
  int64_t heads = 2, groups = 2, width = 3;
  bool alibi = false;
  int64_t window = 0;
  std::vector<int64_t> bias = {};  ///< rows and heads of a bias, 1 or all; empty: none
  int64_t block = 0;               ///< of a random block mask, queries and keys alike; 0: none

  int64_t rows() const { return static_cast<int64_t>(records.size()); }
};

/// Tensors over whole rows; leaves that require grad: q, k, v, bias.
struct WholeRows {
  std::vector<PackedRow> packed;
  at::Tensor q, k, v, bias, weight;  ///< [B, N, H or G, D], [.., .., N, N]; weight of the outputs in the loss
  at::Tensor sees;                   ///< [B, 1, N, N] bool
  SequenceAttentionOptions options;  ///< without the bias
};

/// Outputs and gradients by q, k, v and bias.
struct SequenceResults {
  at::Tensor out;
  std::vector<at::Tensor> grads;
};

inline std::vector<PackedRow> packed_rows(const SequenceCase& c) {
  std::vector<PackedRow> rows;
  for (const std::vector<int64_t>& lengths : c.records) {
    PackedRow row;
    for (const int64_t length : lengths) {
      row.record_starts.push_back(static_cast<int64_t>(row.tokens.size()));
      for (int64_t i = 0; i < length; ++i) row.tokens.push_back(1 + (i * 7 + length) % 11);
    }
    row.sample_id = static_cast<int64_t>(rows.size());
    rows.push_back(row);
  }
  return rows;
}

// Every third block off the diagonal is hidden.
inline void add_mask(const SequenceCase& c, WholeRows& w) {
  const int64_t count = (c.length + c.block - 1) / c.block;
  std::vector<int64_t> begin{0}, columns;
  at::Tensor open = at::zeros({c.length, c.length}, at::kBool);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t k = 0; k < count; ++k) {
      if (k != r && (r * 5 + k) % 3 == 0) continue;
      columns.push_back(k);
      const auto span = [&](int64_t at) { return std::min(c.block, c.length - at * c.block); };
      open.narrow(0, r * c.block, span(r)).narrow(1, k * c.block, span(k)).fill_(true);
    }
    begin.push_back(static_cast<int64_t>(columns.size()));
  }
  w.options.mask_rows = at::tensor(begin, at::kLong);
  w.options.mask_columns = at::tensor(columns, at::kLong);
  w.options.query_block = w.options.key_block = c.block;
  w.sees = w.sees.logical_and(open);
}

/// Values in [-2, 2], another sequence for each salt.
inline at::Tensor drawn(at::IntArrayRef shape, double salt) {
  const at::Tensor place = at::arange(c10::multiply_integers(shape), at::kDouble);
  return at::sin(place * (12.9898 + salt) + salt * 78.233).mul(2).reshape(shape);
}

inline WholeRows whole_rows(const SequenceCase& c, at::ScalarType dtype = at::kDouble) {
  WholeRows w;
  w.packed = packed_rows(c);
  const auto random = [&](at::IntArrayRef shape, double salt) { return drawn(shape, salt).to(dtype); };
  const int64_t b = c.rows(), n = c.length;
  w.q = random({b, n, c.heads, c.width}, 1).requires_grad_();
  w.k = random({b, n, c.groups, c.width}, 2).requires_grad_();
  w.v = random({b, n, c.groups, c.width}, 3).requires_grad_();
  w.weight = random({b, n, c.heads, c.width}, 4);
  if (!c.bias.empty()) w.bias = random({c.bias[0], c.bias[1], n, n}, 5).requires_grad_();
  const at::Tensor starts = SequenceLayout::whole(n).make_batch(w.packed, 0).at("record_starts");
  const at::Tensor place = at::arange(n, at::kLong);
  const at::Tensor key = place.unsqueeze(0), query = place.unsqueeze(1);
  w.sees = (key <= query).logical_and(key >= starts.view({b, 1, n, 1}));
  if (c.window > 0) w.sees = w.sees.logical_and(query - key <= c.window);
  if (c.alibi) w.options.alibi_slopes = at::pow(2.0, -at::arange(1, c.heads + 1, at::kFloat));
  w.options.window = c.window;
  if (c.block > 0) add_mask(c, w);
  return w;
}

inline SequenceResults differentiate(const at::Tensor& out, const at::Tensor& weight,
                                     std::vector<at::Tensor> leaves) {
  if (!leaves.back().defined()) leaves.pop_back();
  return {out.detach(), torch::autograd::grad({(out * weight).sum()}, leaves)};
}

/// Dense softmax over whole rows by plain ATen in the dtype of q.
inline SequenceResults plain_attention(const WholeRows& w) {
  const int64_t n = w.q.size(1), group = w.q.size(2) / w.k.size(2);
  const at::Tensor keys = w.k.repeat_interleave(group, 2), values = w.v.repeat_interleave(group, 2);
  at::Tensor s = at::einsum("bihd,bjhd->bhij", {w.q, keys}) / std::sqrt(static_cast<double>(w.q.size(3)));
  if (w.options.alibi_slopes) {
    const at::Tensor place = at::arange(n, at::kLong);
    const at::Tensor distance = place.unsqueeze(0) - place.unsqueeze(1);
    s = s + w.options.alibi_slopes->to(s.scalar_type()).view({-1, 1, 1}) * distance.to(s.scalar_type());
  }
  if (w.bias.defined()) s = s + w.bias;
  const at::Tensor p = at::softmax(s.masked_fill(w.sees.logical_not(), -INFINITY), -1);
  return differentiate(at::einsum("bhij,bjhd->bihd", {p, values}), w.weight, {w.q, w.k, w.v, w.bias});
}

/// A rank's part of the rows through sequence_attention; results as [B, L, ..].
inline SequenceResults rank_attention(const WholeRows& w, const SequenceLayout& layout, int64_t rank,
                                      Communicator* ranks, int64_t head_groups = 1) {
  const auto part = [&](const at::Tensor& t, int64_t dim) {
    if (!t.defined()) return at::Tensor();
    return layout.dim().select(t.detach(), dim, rank).contiguous().set_requires_grad(t.requires_grad());
  };
  const at::Tensor q = part(w.q, 1), k = part(w.k, 1), v = part(w.v, 1), bias = part(w.bias, 2);
  SequenceAttentionOptions options = w.options;
  if (bias.defined()) options.bias = bias;
  StepContext context;
  context.ranks = ranks;
  context.sequence = &layout;
  context.head_groups = head_groups;
  const at::Tensor out = sequence_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1),
                                            layout.make_batch(w.packed, 0), context, options);
  return differentiate(out.view(q.sizes()), part(w.weight, 1), {q, k, v, bias});
}

/// Cases that every mesh must pass.
inline std::vector<SequenceCase> sequence_cases() {
  using R = std::vector<std::vector<int64_t>>;
  return {{.name = "one record", .length = 16, .records = R{{16}}},
          {.name = "three records across borders and padding",
           .length = 29,
           .records = R{{5, 11, 9}, {2, 26, 1}}},
          {.name = "odd, six heads on two",
           .length = 23,
           .records = R{{9, 14}},
           .heads = 6,
           .groups = 2,
           .alibi = true},
          {.name = "shorter than the ranks", .length = 3, .records = R{{2, 1}, {3}}, .heads = 4, .groups = 4},
          {.name = "one position", .length = 1, .records = R{{1}}, .heads = 3, .groups = 1, .alibi = true},
          {.name = "five heads on one", .length = 17, .records = R{{3, 13}}, .heads = 5, .groups = 1},
          {.name = "eight heads on two, uneven",
           .length = 12,
           .records = R{{12}},
           .heads = 8,
           .groups = 2,
           .alibi = true},
          {.name = "one head", .length = 13, .records = R{{7, 6}}, .heads = 1, .groups = 1, .bias = {1, 1}},
          {.name = "window", .length = 37, .records = R{{30, 5}, {37}}, .alibi = true, .window = 4},
          {.name = "empty row", .length = 9, .records = R{{}, {4, 5}}},
          {.name = "bias of a head",
           .length = 19,
           .records = R{{8, 9}, {19}},
           .heads = 4,
           .groups = 2,
           .bias = {2, 4}},
          {.name = "bias of all",
           .length = 14,
           .records = R{{14}, {3, 8}},
           .heads = 3,
           .groups = 3,
           .bias = {1, 1}},
          {.name = "mask in line", .length = 48, .records = R{{20, 28}}, .block = 2},
          {.name = "mask across, bias",
           .length = 31,
           .records = R{{31}, {6, 20}},
           .alibi = true,
           .window = 13,
           .bias = {1, 2},
           .block = 5}};
}

}  // namespace axial::parallel::testing
