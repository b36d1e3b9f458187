// SPDX-License-Identifier: Apache-2.0
// Attention in pieces of the keys: fp32 outputs merged by their statistics, then each piece's share of the
// gradients from the merged ones, against all keys at once in fp64.
#include <gtest/gtest.h>

#include <span>

#include "axial/kernels/attention/attention_case.h"
#include "axial/kernels/attention/implementations.h"

namespace axial::kernels {
namespace {

using test::AttentionCase;
using test::AttentionShape;
using test::Buffer;

struct Results {
  Results(const AttentionCase& c, DType type)
      : out(type, c.query_elements()),
        statistics(type, c.statistics()),
        dq(type, c.query_elements()),
        dk(type, c.key_elements()),
        dv(type, c.key_elements()),
        dbias{{type, c.bias_elements(0)}, {type, c.bias_elements(1)}} {}
  Buffer out, statistics, dq, dk, dv, dbias[2];
};

template <class T>
void skip(T& tensor, int64_t elements) {
  if (tensor.data != nullptr)
    tensor.data = static_cast<char*>(tensor.data) + elements * size_of(tensor.dtype);
}

// The keys [begin, end) of a case.
AttentionInputs piece_of(AttentionCase& c, int64_t begin, int64_t end) {
  AttentionInputs in = c.inputs();
  in.sizes.keys = end - begin;
  for (AttentionTensor* t : {&in.k, &in.v}) skip(*t, begin * t->row);
  for (AttentionBias& b : in.bias) skip(b, begin * b.key);
  return in;
}

// By the reference or by the best implementation.
template <class Params>
void run(std::span<const Implementation<Params>> table, Params& params, bool reference) {
  const int64_t bytes = std::max(workspace_bytes(params), attention::reference_workspace(params));
  std::vector<char> space(static_cast<size_t>(bytes) + 64);
  params.workspace = space.data() + (64 - reinterpret_cast<uintptr_t>(space.data()) % 64);
  const Status status = reference ? table.back().run(params, serial_parallel_for())
                                  : run_first(table, params, serial_parallel_for());
  EXPECT_TRUE(status.ok());
}

void forward(AttentionCase& c, int64_t begin, int64_t end, Results& r, bool reference = false) {
  AttentionForward p;
  p.in = piece_of(c, begin, end);
  p.out = c.tensor(r.out.data(), r.out.dtype(), c.shape().queries, c.shape().heads);
  p.statistics = r.statistics.data();
  run(attention_forward_table(), p, reference);
}

// dk, dv and dbias of the piece into its part of the whole; dq is the piece's share.
void backward(AttentionCase& c, int64_t begin, int64_t end, Results& r, bool merged, Buffer& dq,
              bool reference = false) {
  const AttentionShape& s = c.shape();
  const DType type = r.dq.dtype();
  AttentionBackward p;
  p.in = piece_of(c, begin, end);
  p.out = c.tensor(r.out.data(), type, s.queries, s.heads);
  p.statistics = r.statistics.data();
  p.merged = merged;
  p.dout = c.dout();
  p.dq = c.tensor(dq.data(), type, s.queries, s.heads);
  p.dk = c.tensor(r.dk.data(), type, s.keys, s.kv_heads);
  p.dv = c.tensor(r.dv.data(), type, s.keys, s.kv_heads);
  for (AttentionTensor* t : {&p.dk, &p.dv}) skip(*t, begin * t->row);
  for (int b = 0; b < 2; ++b) {
    p.dbias[b] = c.bias(b, r.dbias[b].data(), type);
    skip(p.dbias[b], begin * p.dbias[b].key);
  }
  run(attention_backward_table(), p, reference);
}

// By plain loops over all keys.
Results whole(AttentionCase c, DType type) {
  Results r(c, type);
  forward(c, 0, c.shape().keys, r, true);
  backward(c, 0, c.shape().keys, r, false, r.dq, true);
  return r;
}

// Rescale the sums and outputs of all pieces to the largest logit.
void merge(const AttentionShape& s, std::vector<Results>& pieces, Results& to) {
  for (int64_t row = 0; row < to.statistics.size() / 2; ++row) {
    const int64_t query = row % s.queries, head = row / s.queries % s.heads, x = row / s.queries / s.heads;
    const int64_t at = ((x * s.queries + query) * s.heads + head) * s.width;
    double largest = -INFINITY, sum = 0;
    for (Results& p : pieces) largest = std::max(largest, p.statistics.get(2 * row));
    std::vector<double> out(static_cast<size_t>(s.width));
    for (Results& p : pieces) {
      const double part = p.statistics.get(2 * row + 1);
      if (part == 0) continue;  // saw nothing: its largest logit is minus infinity
      const double weight = part * std::exp(p.statistics.get(2 * row) - largest);
      sum += weight;
      for (int64_t i = 0; i < s.width; ++i) out[static_cast<size_t>(i)] += weight * p.out.get(at + i);
    }
    to.statistics.set(2 * row, largest);
    to.statistics.set(2 * row + 1, sum);
    for (int64_t i = 0; i < s.width; ++i)
      to.out.set(at + i, sum == 0 ? 0 : out[static_cast<size_t>(i)] / sum);
  }
}

Results in_pieces(AttentionCase c, const std::vector<int64_t>& borders) {
  std::vector<Results> pieces;
  for (size_t i = 0; i + 1 < borders.size(); ++i) {
    pieces.emplace_back(c, DType::kF32);
    forward(c, borders[i], borders[i + 1], pieces.back());
  }
  Results r(c, DType::kF32);
  merge(c.shape(), pieces, r);
  for (int64_t i = 0; i < r.dq.size(); ++i) r.dq.set(i, 0);
  for (size_t i = 0; i + 1 < borders.size(); ++i) {
    Buffer dq(DType::kF32, r.dq.size());
    backward(c, borders[i], borders[i + 1], r, true, dq);
    for (int64_t j = 0; j < dq.size(); ++j) r.dq.set(j, r.dq.get(j) + dq.get(j));
  }
  return r;
}

void check(const AttentionShape& shape, DType dtype, const std::vector<int64_t>& borders) {
  SCOPED_TRACE(fmt::format("{} {} {}", shape.name, name_of(dtype), borders.size() - 1));
  const AttentionCase c(shape, dtype);
  Results truth = whole(c.widened(), DType::kF64), plain = whole(c, DType::kF32),
          many = in_pieces(c, borders);
  EXPECT_TRUE(test::within_twice(many.out, plain.out, truth.out)) << "out";
  EXPECT_TRUE(test::within_twice(many.dq, plain.dq, truth.dq)) << "dq";
  EXPECT_TRUE(test::within_twice(many.dk, plain.dk, truth.dk)) << "dk";
  EXPECT_TRUE(test::within_twice(many.dv, plain.dv, truth.dv)) << "dv";
  for (int b = 0; b < 2; ++b)
    EXPECT_TRUE(test::within_twice(many.dbias[b], plain.dbias[b], truth.dbias[b])) << b;
}

TEST(AttentionMerge, PiecesOfTheKeysMakeTheWhole) {
  AttentionShape shape{
      .name = "plain", .leading = {2}, .queries = 90, .keys = 200, .heads = 4, .kv_heads = 2, .width = 16};
  shape = test::with_bias(shape, "xk", "hqk");
  AttentionShape masked = shape;
  masked.name = "the first piece is hidden, of the first row everything";
  masked.first_block_masked = true;
  AttentionShape rows = test::with_bias(shape, "xhqk", "k");
  rows.name = "a row is hidden";
  rows.row_masked = true;
  rows.masked = 0.3;
  for (const AttentionShape& s : {shape, masked, rows}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      check(s, dtype, {0, 64, 200});
      check(s, dtype, {0, 33, 131, 200});
    }
  }
}

}  // namespace
}  // namespace axial::kernels
