// SPDX-License-Identifier: Apache-2.0
// Checks, the way of a call through ulysses and ring, and the one without either.
#include "axial/parallel/sequence_attention/sequence_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "axial/core/check/check.h"
#include "axial/parallel/block/kept_results.h"
#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/sequence_attention/heads.h"
#include "axial/parallel/sequence_attention/ring.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "sequence_attention";

using Options = SequenceAttentionOptions;

int64_t degree_of(const Communicator* ranks, const char* axis) {
  if (ranks == nullptr) return 1;
  const Axes axes = ranks->mesh().batch_axes();
  return std::find(axes.begin(), axes.end(), axis) == axes.end() ? 1 : ranks->mesh().degree(axis);
}

const at::Tensor& tensor_of(const NamedTensors& batch, const char* name) {
  const auto found = batch.find(name);
  AXIAL_CHECK(found != batch.end() && found->second.defined(), kOp,
              "tensor '{}' of the batch; expected what SequenceLayout::make_batch makes, got none", name);
  return found->second;
}

// The layout of the call: of the context, or this rank holds whole rows.
SequenceLayout layout_of(const StepContext& context, int64_t positions) {
  const int64_t ring = degree_of(context.ranks, "ring"), ulysses = degree_of(context.ranks, "ulysses");
  if (context.sequence == nullptr) {
    AXIAL_CHECK(
        ring * ulysses == 1, kOp,
        "layout of the rows in the step context; expected one for {} ring times {} ulysses ranks, got "
        "none",
        ring, ulysses);
    return SequenceLayout::whole(std::max<int64_t>(positions, 1));
  }
  const SequenceLayout& layout = *context.sequence;
  AXIAL_CHECK(
      layout.ring().num_ranks() == ring && static_cast<int64_t>(layout.ulysses_sizes().size()) == ulysses,
      kOp, "layout of the rows; expected {} ring times {} ulysses ranks as the mesh has, got {} times {}",
      ring, ulysses, layout.ring().num_ranks(), layout.ulysses_sizes().size());
  return layout;
}

void check_qkv(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  AXIAL_CHECK(
      q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && k.size(0) == q.size(0) &&
          k.size(2) == q.size(2) && k.size(1) > 0 && q.size(1) > 0 && q.size(1) % k.size(1) == 0,
      kOp,
      "q, k and v; expected [T, H, D] and twice [T, G, D] with G a divisor of H, got [{}], [{}] and [{}]",
      fmt::join(q.sizes(), ", "), fmt::join(k.sizes(), ", "), fmt::join(v.sizes(), ", "));
  AXIAL_CHECK(k.scalar_type() == q.scalar_type() && v.scalar_type() == q.scalar_type(), kOp,
              "k and v; expected the dtype of q, {}, got {} and {}", c10::toString(q.scalar_type()),
              c10::toString(k.scalar_type()), c10::toString(v.scalar_type()));
}

void check_rows(const at::Tensor& q, const at::Tensor& record_starts, const SequenceLayout& layout) {
  const int64_t attended = layout.ring().local_size(layout.ring_rank());
  AXIAL_CHECK(record_starts.dim() == 2 && record_starts.scalar_type() == at::kLong &&
                  record_starts.size(1) == attended && (record_starts.is_cpu() || record_starts.is_meta()),
              kOp, "record_starts; expected int64 [rows, {}] on the host, got {} [{}] on {}", attended,
              c10::toString(record_starts.scalar_type()), fmt::join(record_starts.sizes(), ", "),
              record_starts.device().str());
  AXIAL_CHECK(q.size(0) == record_starts.size(0) * layout.local_length(), kOp,
              "q; expected {} rows of {} positions, got {} in all", record_starts.size(0),
              layout.local_length(), q.size(0));
}

void check_options(const at::Tensor& q, int64_t rows, const SequenceLayout& layout, const Options& o) {
  AXIAL_CHECK(o.window >= 0, kOp, "window; expected at least 0, got {}", o.window);
  AXIAL_CHECK(!o.alibi_slopes || (o.alibi_slopes->dim() == 1 && o.alibi_slopes->size(0) == q.size(1)), kOp,
              "alibi_slopes; expected one for each of {} heads, got [{}]", q.size(1),
              o.alibi_slopes ? fmt::format("{}", fmt::join(o.alibi_slopes->sizes(), ", ")) : "");
  const int64_t row = layout.dim().size();
  if (o.bias) {
    const at::Tensor& b = *o.bias;
    AXIAL_CHECK(b.dim() == 4 && (b.size(0) == 1 || b.size(0) == rows) &&
                    (b.size(1) == 1 || b.size(1) == q.size(1)) && b.size(2) == layout.local_length() &&
                    b.size(3) == row,
                kOp, "bias; expected [1 or {}, 1 or {}, {}, {}], got [{}]", rows, q.size(1),
                layout.local_length(), row, fmt::join(b.sizes(), ", "));
  }
  if (o.attended_bits) {
    const at::Tensor& b = *o.attended_bits;
    const int64_t attended = layout.ring().local_size(layout.ring_rank());
    AXIAL_CHECK(!o.bias && !o.attended_bias, kOp, "attended_bits; expected no bias beside them, got one");
    AXIAL_CHECK(b.dim() == 3 && b.scalar_type() == at::kByte && (b.size(0) == 1 || b.size(0) == rows) &&
                    b.size(1) == attended && b.size(2) == (row + 7) / 8 && (b.is_cpu() || b.is_meta()),
                kOp, "attended_bits; expected uint8 [1 or {}, {}, {}] on the host, got {} [{}] on {}", rows,
                attended, (row + 7) / 8, c10::toString(b.scalar_type()), fmt::join(b.sizes(), ", "),
                b.device().str());
  }
  if (o.attended_bias) {
    const at::Tensor& b = *o.attended_bias;
    const int64_t attended = layout.ring().local_size(layout.ring_rank());
    AXIAL_CHECK(!o.bias && !b.requires_grad(), kOp,
                "attended_bias; expected a tensor without gradient and no bias beside it, got {}",
                o.bias ? "both" : "one that requires a gradient");
    AXIAL_CHECK(b.dim() == 4 && (b.size(0) == 1 || b.size(0) == rows) && b.size(1) == 1 &&
                    b.size(2) == attended && b.size(3) == row,
                kOp, "attended_bias; expected [1 or {}, 1, {}, {}], got [{}]", rows, attended, row,
                fmt::join(b.sizes(), ", "));
  }
  AXIAL_CHECK(o.mask_rows.has_value() == o.mask_columns.has_value(), kOp,
              "block mask; expected mask_rows and mask_columns, got one of them");
  if (!o.mask_rows) return;
  AXIAL_CHECK(o.query_block > 0 && o.key_block > 0, kOp,
              "blocks of the mask; expected sizes above 0, got {} x {}", o.query_block, o.key_block);
  const int64_t blocks = (row + o.query_block - 1) / o.query_block;
  AXIAL_CHECK(o.mask_rows->dim() == 1 && o.mask_rows->scalar_type() == at::kLong &&
                  o.mask_columns->scalar_type() == at::kLong && o.mask_rows->size(0) == blocks + 1,
              kOp, "mask_rows; expected int64 [{}] for {} blocks of queries of the row, got [{}]", blocks + 1,
              blocks, fmt::join(o.mask_rows->sizes(), ", "));
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const ops::OptionalTensor& bias, const ops::OptionalTensor& hidden,
                  const ops::AttentionPattern& pattern, std::optional<double> scale,
                  ops::AttentionResult* kept) {
  if (kept) return ops::kept_attention(q, k, v, bias, hidden, pattern, scale, *kept);
  return ops::attention(q, k, v, bias, hidden, pattern, scale);
}

// Whole rows, or whole rows of some heads: one call, whose result needs no merge.
at::Tensor attend_whole(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::optional<at::Tensor>& bias, const detail::RingCall& call) {
  const std::vector<detail::Piece> pieces = detail::pieces_of(call.sight, 0, q);
  if (pieces.empty()) return q;  // no rows
  const ops::KnownPairsScope pairs(pieces[0].pairs);
  return attend(q, k, v, bias, pieces[0].hidden, pieces[0].pattern, call.scale, call.kept);
}

at::Tensor attend_heads(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const NamedTensors& batch, const StepContext& context, const Options& options) {
  const int64_t ring = degree_of(context.ranks, "ring"), ulysses = degree_of(context.ranks, "ulysses");
  ops::AttentionResult* kept = context.kept ? &context.kept->next() : nullptr;
  const bool in_parts = options.attended_bits.has_value();
  if (ring * ulysses == 1 && !options.bias && !options.attended_bias && !in_parts && !options.mask_rows) {
    ops::AttentionPattern pattern;
    pattern.causal = true;
    pattern.window = options.window;
    pattern.segments = tensor_of(batch, "segments");
    pattern.alibi_slopes = options.alibi_slopes;
    return attend(q, k, v, std::nullopt, std::nullopt, pattern, options.scale, kept);
  }
  check_qkv(q, k, v);
  const at::Tensor& record_starts = tensor_of(batch, "record_starts");
  const SequenceLayout layout = layout_of(context, record_starts.size(-1));
  check_rows(q, record_starts, layout);
  const int64_t rows = record_starts.size(0), positions = layout.local_length();
  check_options(q, rows, layout, options);

  const detail::HeadExchange heads(q.size(1), k.size(1), layout.ulysses_sizes(), context.ranks);
  detail::Sight sight{layout.ring(),        layout.ring_rank(),  record_starts,
                      std::nullopt,         options.window,      options.mask_rows,
                      options.mask_columns, options.query_block, options.key_block};
  sight.attended_bits = options.attended_bits;
  sight.attended_queries = options.attended_queries;
  if (options.alibi_slopes) sight.alibi_slopes = heads.own_heads(*options.alibi_slopes);
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(2))));
  const detail::RingCall call{std::move(sight), heads, scale, context.ranks, kept};
  const auto by_row = [&](const at::Tensor& t) { return t.unflatten(0, {rows, positions}); };

  std::optional<at::Tensor> bias = options.attended_bias;
  if (options.bias) bias = heads.bias_to_heads(*options.bias);
  const at::Tensor queries = heads.to_heads(by_row(q));
  if (ring * ulysses == 1 && !in_parts) {
    return attend_whole(queries, by_row(k), by_row(v), bias, call).flatten(0, 1);
  }
  const at::Tensor kv = at::stack({by_row(k), by_row(v)});
  if (ring > 1 || in_parts || !heads.parts_all_heads()) {
    return heads.to_positions(detail::ring_attention(queries, kv, bias, call)).flatten(0, 1);
  }
  const std::vector<at::Tensor> parts = heads.keys_to_heads(kv).unbind(0);
  return heads.to_positions(attend_whole(queries, parts[0], parts[1], bias, call)).flatten(0, 1);
}

// The options of heads [begin, end) of `heads`.
Options options_of(const Options& all, int64_t begin, int64_t end, int64_t heads) {
  Options out = all;
  if (all.alibi_slopes) out.alibi_slopes = all.alibi_slopes->narrow(0, begin, end - begin);
  if (all.bias && all.bias->size(1) == heads) out.bias = all.bias->narrow(1, begin, end - begin);
  return out;
}

}  // namespace

at::Tensor sequence_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const NamedTensors& batch, const StepContext& context, const Options& options) {
  if (context.head_groups <= 1) return attend_heads(q, k, v, batch, context, options);
  check_qkv(q, k, v);
  const int64_t heads = q.size(1), kv_heads = k.size(1), shared = heads / kv_heads;
  const Sizes kv_sizes = even_sizes(kv_heads, std::min(context.head_groups, kv_heads));
  Sizes sizes;
  for (const int64_t size : kv_sizes) sizes.push_back(size * shared);
  // One node each, so that backward joins the groups' gradients once.
  const auto qs = q.split_with_sizes(sizes, 1), ks = k.split_with_sizes(kv_sizes, 1),
             vs = v.split_with_sizes(kv_sizes, 1);
  std::vector<at::Tensor> out;
  int64_t begin = 0;
  for (size_t g = 0; g < sizes.size(); ++g) {
    const Options of_group = options_of(options, begin, begin + sizes[g], heads);
    out.push_back(attend_heads(qs[g], ks[g], vs[g], batch, context, of_group));
    begin += sizes[g];
  }
  return at::cat(out, 1);
}

}  // namespace axial::parallel
