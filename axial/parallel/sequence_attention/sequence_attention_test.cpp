// SPDX-License-Identifier: Apache-2.0
// sequence_attention without peers: one rank, plans on Meta, byte counts, and what is refused.
#include "axial/parallel/sequence_attention/sequence_attention.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/check/check.h"
#include "axial/ops/attention/attention.h"
#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/communicator/recording.h"
#include "axial/parallel/sequence_attention/pieces.h"
#include "axial/parallel/sequence_attention/sequence_case.h"
#include "axial/testing/tolerance/tolerance.h"

namespace axial::parallel {
namespace {

using testing::SequenceCase;
using testing::SequenceResults;
using testing::WholeRows;

TEST(SequenceAttention, OneRankIsSegmentAttentionToTheBit) {
  const SequenceCase c{
      .name = "one", .length = 40, .records = {{11, 20}, {40}}, .heads = 4, .groups = 2, .alibi = true};
  Communicator self(Mesh::single());
  const SequenceLayout layout = SequenceLayout::whole(c.length);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const WholeRows w = testing::whole_rows(c, dtype);
    const NamedTensors batch = layout.make_batch(w.packed, 0);
    const auto flat = [](const at::Tensor& t) { return t.flatten(0, 1); };
    const SequenceResults plain =
        testing::differentiate(ops::segment_attention(flat(w.q), flat(w.k), flat(w.v), batch.at("segments"),
                                                      w.options.alibi_slopes, std::nullopt),
                               flat(w.weight), {w.q, w.k, w.v, at::Tensor()});
    for (Communicator* ranks : {static_cast<Communicator*>(nullptr), &self}) {
      for (const SequenceLayout* sequence : {static_cast<const SequenceLayout*>(nullptr), &layout}) {
        StepContext context;
        context.ranks = ranks;
        context.sequence = sequence;
        const at::Tensor out = sequence_attention(flat(w.q), flat(w.k), flat(w.v), batch, context, w.options);
        const SequenceResults got =
            testing::differentiate(out, flat(w.weight), {w.q, w.k, w.v, at::Tensor()});
        EXPECT_TRUE(at::equal(got.out, plain.out));
        for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(got.grads[i], plain.grads[i]));
      }
    }
  }
  EXPECT_TRUE(self.traffic().empty());
}

TEST(SequenceAttention, OneRankWithWindowBiasAndMaskInAnyGroupsOfHeads) {
  for (const SequenceCase& c : testing::sequence_cases())
    for (const int64_t head_groups : {1, 2, 3, 100}) {
      const WholeRows w = testing::whole_rows(c);
      const SequenceResults plain = testing::plain_attention(w);
      const SequenceResults got =
          testing::rank_attention(w, SequenceLayout::whole(c.length), 0, nullptr, head_groups);
      EXPECT_LE(axial::testing::relative_l2(got.out, plain.out), 1e-14) << c.name;
      for (size_t i = 0; i < got.grads.size(); ++i) {
        EXPECT_LE(axial::testing::relative_l2(got.grads[i], plain.grads[i]), 1e-13) << c.name << " " << i;
      }
    }
}

// A rank of a mesh whose peers do not exist, on Meta.
struct Plan {
  std::vector<RecordedCall> calls;
  Communicator ranks;
  SequenceLayout layout;

  Plan(int64_t ring, int64_t ulysses, int64_t rank, int64_t length)
      : ranks(Mesh({{"ring", ring}, {"ulysses", ulysses}}, ring * ulysses, rank),
              make_recording_transport(&calls), nullptr, {}),
        layout(SequenceLayout::over(ranks.mesh(), length)) {}

  int64_t bytes(const char* group, const char* op) const {
    const auto found = ranks.traffic().find({group, op});
    return found == ranks.traffic().end() ? 0 : found->second.bytes;
  }
};

struct MetaCall {
  at::Tensor q, k, v, out;
};

MetaCall call_on_meta(Plan& plan, int64_t rows, int64_t heads, int64_t groups, int64_t width,
                      at::ScalarType dtype, const SequenceAttentionOptions& options = {},
                      bool wants_dq = true) {
  const auto leaf = [&](int64_t h) {
    return at::empty({rows * plan.layout.local_length(), h, width}, at::device(at::kMeta).dtype(dtype))
        .requires_grad_();
  };
  MetaCall call{leaf(heads), leaf(groups), leaf(groups), {}};
  call.q.set_requires_grad(wants_dq);
  const int64_t attended = plan.layout.ring().local_size(plan.layout.ring_rank());
  StepContext context;
  context.ranks = &plan.ranks;
  context.sequence = &plan.layout;
  const auto whole = at::device(at::kMeta).dtype(at::kLong);
  call.out = sequence_attention(call.q, call.k, call.v,
                                {{"record_starts", at::empty({rows, attended}, whole)}}, context, options);
  return call;
}

struct Bytes {
  int64_t ring, ulysses, rows, heads, groups;
  at::ScalarType dtype;
  int64_t sent_forward, sent_backward;            // by the ring
  int64_t exchanged_forward, exchanged_backward;  // by ulysses
};

// Rows of 16 positions, heads of width 4. Ring: (r - 1) blocks [2, B, L, G, D], backward as many again and as
// many in fp32. Ulysses: (u - 1) / u of q, k, v and out.
TEST(SequenceAttention, SendsTheBytesOfTheFormula) {
  const std::vector<Bytes> cases{{4, 1, 1, 4, 2, at::kFloat, 3 * 256, 3 * (256 + 256), 0, 0},
                                 {4, 1, 1, 4, 2, at::kBFloat16, 3 * 128, 3 * (128 + 256), 0, 0},
                                 {2, 1, 3, 2, 1, at::kDouble, 1536, 2 * 1536, 0, 0},
                                 {1, 2, 1, 4, 2, at::kFloat, 0, 0, 768, 768},
                                 {1, 4, 1, 4, 1, at::kFloat, 0, 0, 192 + 384 + 192, 768},
                                 {2, 2, 1, 4, 2, at::kFloat, 256, 512, 384, 384}};
  for (const Bytes& b : cases) {
    Plan plan(b.ring, b.ulysses, b.ring * b.ulysses - 1, 16);
    const MetaCall call = call_on_meta(plan, b.rows, b.heads, b.groups, 4, b.dtype);
    EXPECT_EQ(call.out.sizes(), call.q.sizes());
    EXPECT_EQ(call.out.scalar_type(), b.dtype);
    EXPECT_EQ(plan.bytes("ring", "send"), b.sent_forward);
    EXPECT_EQ(plan.bytes("ulysses", "all_to_all"), b.exchanged_forward);
    plan.ranks.clear_traffic();
    const auto grads =
        torch::autograd::grad({call.out}, {call.q, call.k, call.v}, {at::empty_like(call.out)});
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(grads[i].sizes(), (i == 0 ? call.q : call.k).sizes());
    EXPECT_EQ(plan.bytes("ring", "send"), b.sent_backward);
    EXPECT_EQ(plan.bytes("ulysses", "all_to_all"), b.exchanged_backward);
  }
}

TEST(SequenceAttention, RefusesSecondOrder) {
  for (const auto& [ring, ulysses] : {std::pair(2, 1), {1, 2}, {2, 2}}) {
    Plan plan(ring, ulysses, 0, 12);
    const MetaCall call = call_on_meta(plan, 1, 2, 2, 4, at::kDouble);
    EXPECT_THROW(torch::autograd::grad({call.out}, {call.q}, {at::empty_like(call.out)}, std::nullopt, true),
                 c10::Error);
    const MetaCall keys_alone = call_on_meta(plan, 1, 2, 1, 4, at::kDouble, {}, false);
    EXPECT_THROW(torch::autograd::grad({keys_alone.out}, {keys_alone.k}, {at::empty_like(call.out)},
                                       std::nullopt, true),
                 c10::Error);
  }
}

TEST(SequenceAttention, RefusesWhatDoesNotFitBeforeAnyByte) {
  Plan plan(2, 2, 1, 12);
  const auto attempt = [&](const SequenceAttentionOptions& options) {
    return call_on_meta(plan, 2, 4, 2, 3, at::kFloat, options);
  };
  const auto meta = [](at::IntArrayRef shape) { return at::empty(shape, at::device(at::kMeta)); };
  const auto longs = [](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong); };
  EXPECT_THROW(attempt({.alibi_slopes = meta({3})}), ValueError);
  EXPECT_THROW(attempt({.window = -1}), ValueError);
  EXPECT_THROW(attempt({.bias = meta({2, 4, 3, 11})}), ValueError);
  EXPECT_THROW(attempt({.bias = meta({2, 3, 3, 12})}), ValueError);
  EXPECT_THROW(attempt({.bias = meta({4, 3, 12})}), ValueError);
  EXPECT_THROW(attempt({.mask_rows = longs({0, 1})}), ValueError);
  EXPECT_THROW(attempt({.mask_rows = longs({0, 1}), .mask_columns = longs({0}), .query_block = 6}),
               ValueError);
  EXPECT_NO_THROW(attempt({.mask_rows = longs({0, 1}), .mask_columns = longs({0}), .query_block = 12}));
  plan.calls.clear();
  const at::Tensor q = at::zeros({6, 4, 3}), k = at::zeros({6, 2, 3});
  const auto run = [&](const at::Tensor& keys, const NamedTensors& batch, const SequenceLayout* layout) {
    StepContext context;
    context.ranks = &plan.ranks;
    context.sequence = layout;
    return sequence_attention(q, keys, keys, batch, context, {});
  };
  const NamedTensors batch{{"record_starts", at::zeros({2, 6}, at::kLong)}};
  EXPECT_THROW(run(k, {}, &plan.layout), ValueError);
  EXPECT_THROW(run(k, batch, nullptr), ValueError);
  const SequenceLayout whole = SequenceLayout::whole(12);
  EXPECT_THROW(run(k, batch, &whole), ValueError);
  EXPECT_THROW(run(at::zeros({6, 3, 3}), batch, &plan.layout), ValueError);
  EXPECT_THROW(run(at::zeros({5, 2, 3}), batch, &plan.layout), ValueError);
  EXPECT_THROW(run(k.to(at::kDouble), batch, &plan.layout), ValueError);
  EXPECT_THROW(run(k, {{"record_starts", at::zeros({2, 3}, at::kLong)}}, &plan.layout), ValueError);
  EXPECT_THROW(run(k, {{"record_starts", at::zeros({3, 6}, at::kLong)}}, &plan.layout), ValueError);
  EXPECT_TRUE(plan.calls.empty());
}

// Zigzag: every rank has the same number of (query, key) pairs; pieces that nobody sees are left out.
TEST(SequenceAttention, PiecesAreTheVisibleOnes) {
  detail::Sight sight{.ring = DimLayout::zigzag(16, 4), .record_starts = at::zeros({1, 4}, at::kLong)};
  const auto pieces = [&](int64_t rank, int64_t other) {
    sight.rank = rank;
    return detail::pieces_of(sight, other, at::zeros({1})).size();
  };
  EXPECT_EQ(pieces(1, 1), 3U);
  EXPECT_EQ(pieces(1, 0), 2U);  // both intervals see the first one
  EXPECT_EQ(pieces(1, 2), 2U);  // the second interval sees both
  EXPECT_EQ(pieces(3, 3), 1U);  // its intervals touch
  sight.window = 1;
  EXPECT_EQ(pieces(1, 2), 1U);  // its place 12 sees 11
  EXPECT_EQ(pieces(1, 3), 0U);
  sight.window = 0;
  sight.record_starts = at::tensor({2, 2, 12, 12}, at::kLong).unsqueeze(0);  // no key of another's record
  EXPECT_EQ(pieces(1, 0), 0U);
  EXPECT_EQ(pieces(1, 1), 2U);
}

}  // namespace
}  // namespace axial::parallel
