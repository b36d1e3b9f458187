// SPDX-License-Identifier: Apache-2.0
// Allocation, workspace and the kernel call of call.h; on Meta all but the call.
#include "axial/ops/attention/call.h"

#include <ATen/Parallel.h>

#include "axial/ops/common/flop_count.h"
#include "axial/ops/common/kernel_call.h"
#include "axial/ops/common/memory_count.h"

namespace axial::ops::detail {
namespace {

using at::Tensor;

constexpr std::string_view kOp = "attention";

template <class P, class F>
void for_tensors(P& pattern, const F& f) {
  f(pattern.segments);
  f(pattern.key_begin);
  f(pattern.key_end);
  f(pattern.mask_rows);
  f(pattern.mask_columns);
  f(pattern.alibi_slopes);
  f(pattern.q_positions);
  f(pattern.k_positions);
}

void check_backward(const AttentionArguments& a, const BackwardArguments& from) {
  const auto& [grad, out, statistics, merged, mask] = from;
  check_attention(a);
  AXIAL_OP_CHECK((a.bias1 || !mask[3]) && (a.bias2 || !mask[4]), kOp,
                 "mask; expected no gradient of a bias that is not there");
  AXIAL_OP_CHECK(grad.sym_sizes() == a.q.sym_sizes() && out.sym_sizes() == a.q.sym_sizes(), kOp,
                 "grad and out; expected the shape of q {}, got {} and {}", shape_text(a.q), shape_text(grad),
                 shape_text(out));
  AXIAL_OP_CHECK(statistics.dim() == a.q.dim() && statistics.is_contiguous() &&
                     statistics.sym_numel() * a.q.sym_size(-1) == a.q.sym_numel() * 2 &&
                     statistics.scalar_type() == accumulate_type(a.q.scalar_type()),
                 kOp, "statistics; expected what attention_forward gave for q {}, got {}", shape_text(a.q),
                 shape_text(statistics));
}

// So many products over the width per pair, of which some were computed before.
void count(const AttentionArguments& args, const kernels::AttentionInputs& in, int products, int again) {
  if (!counts_flops()) return;
  const KnownPairs pairs = all_pairs(args, in);
  const double each = 2.0 * static_cast<double>(in.sizes.width);
  const Flops one{.products = 0, .attention = each * pairs.seen, .attention_square = each * pairs.square};
  add_flops(products * one, again * one);
}

// Logits again; their gradient, dV, dQ and dK as they are wanted.
void count_backward(const AttentionArguments& args, const kernels::AttentionInputs& in,
                    const GradientMask& mask) {
  const auto [dq, dk, dv, db1, db2] = mask;
  const bool logits = dq || dk || db1 || db2;
  const int products = (dq ? 1 : 0) + (dk ? 1 : 0) + (dv ? 1 : 0) + (logits ? 1 : 0);
  if (products > 0) count(args, in, 1 + products, 1);
}

}  // namespace

PatternTensors tensors_of(const AttentionPattern& pattern) {
  PatternTensors out;
  for_tensors(pattern, [&](const OptionalTensor& t) { out.push_back(t); });
  return out;
}

std::vector<int64_t> numbers_of(const AttentionPattern& p) {
  return {p.causal ? 1 : 0, p.window, p.query_block, p.key_block};
}

AttentionPattern pattern_of(const PatternTensors& tensors, at::IntArrayRef numbers) {
  AttentionPattern p;
  size_t i = 0;
  for_tensors(p, [&](OptionalTensor& t) { t = tensors.get(i++); });
  AXIAL_OP_CHECK(numbers.size() == 4, kOp, "numbers of the pattern; expected 4, got {}", numbers.size());
  p.causal = numbers[0] != 0;
  p.window = numbers[1];
  p.query_block = numbers[2];
  p.key_block = numbers[3];
  return p;
}

namespace {

// Of matrix tiles, which some CPUs have: no part of a step's count, as what BLAS takes is none (ops/linear).
template <class Params>
Tensor tile_workspace(Params& params, const Tensor& q) {
  const MemoryPause scratch;
  const int64_t bytes = kernels::tile_workspace_bytes(params);
  if (bytes == 0) return {};
  Tensor space = workspace(bytes, q);
  params.tile_workspace = space.mutable_data_ptr();
  return space;
}

}  // namespace

std::tuple<Tensor, Tensor> run_forward(const AttentionArguments& args, at::ScalarType out_dtype,
                                       bool statistics) {
  check_attention(args);
  const Tensor& q = args.q;
  const Tensor out = empty(q.sym_sizes(), q.options().dtype(out_dtype));
  std::vector<c10::SymInt> shape(q.sym_sizes().begin(), q.sym_sizes().end());
  std::swap(shape[shape.size() - 3], shape[shape.size() - 2]);  // heads before queries
  shape.back() = 2;
  if (!statistics) shape = {0};
  const Tensor rows = empty(shape, q.options().dtype(accumulate_type(q.scalar_type())));
  if (has_symbolic_sizes(q)) return {out, rows};

  AttentionProblem problem(args);
  kernels::AttentionForward params;
  problem.bind(out, params.out);
  problem.finish();
  params.in = problem.in;
  count(args, params.in, 2, 0);
  params.num_threads = at::get_num_threads();
  // The choice of a kernel, and so its workspace, asks whether there are statistics; Meta has no address of
  // its own.
  if (statistics) params.statistics = q.is_meta() ? static_cast<void*>(&params) : rows.mutable_data_ptr();
  const Tensor space = workspace(kernels::workspace_bytes(params), q);
  if (q.is_meta()) return {out, rows};
  const Tensor tiles = tile_workspace(params, q);
  params.workspace = space.mutable_data_ptr();
  throw_if_failed(kernels::attention_forward(params, torch_parallel_for()), kOp);
  return {out, rows};
}

Gradients run_backward(const AttentionArguments& args, const BackwardArguments& from) {
  check_backward(args, from);
  const Tensor &q = args.q, &k = args.k, &v = args.v;
  const GradientMask& mask = from.mask;
  const auto like = [&](const Tensor& t) {
    return empty(t.sym_sizes(),
                 from.merged ? t.options().dtype(accumulate_type(q.scalar_type())) : t.options());
  };
  const Tensor dq = mask[0] ? like(q) : Tensor(), dk = mask[1] ? like(k) : Tensor(),
               dv = mask[2] ? like(v) : Tensor();
  const Tensor db1 = mask[3] ? like(*args.bias1) : Tensor(), db2 = mask[4] ? like(*args.bias2) : Tensor();
  if (has_symbolic_sizes(q)) return {dq, dk, dv, db1, db2};

  // A gradient in another order of many leading dims would not merge with the rest.
  const Tensor dout = q.dim() - 3 > kernels::kMaxLeading ? from.grad.contiguous() : from.grad;
  AttentionProblem problem(args);
  kernels::AttentionBackward params;
  problem.bind(from.out, params.out);
  problem.bind(dout, params.dout);
  if (mask[0]) problem.bind(dq, params.dq);
  if (mask[1]) problem.bind(dk, params.dk);
  if (mask[2]) problem.bind(dv, params.dv);
  if (mask[3]) problem.bind_bias(db1, params.dbias[0]);
  if (mask[4]) problem.bind_bias(db2, params.dbias[1]);
  problem.finish();
  params.in = problem.in;
  count_backward(args, params.in, mask);
  params.merged = from.merged;
  params.num_threads = at::get_num_threads();
  const Tensor space = workspace(kernels::workspace_bytes(params), q);
  if (q.is_meta()) return {dq, dk, dv, db1, db2};
  const Tensor tiles = tile_workspace(params, q);
  params.statistics = from.statistics.const_data_ptr();
  params.workspace = space.mutable_data_ptr();
  throw_if_failed(kernels::attention_backward(params, torch_parallel_for()), kOp);
  return {dq, dk, dv, db1, db2};
}

}  // namespace axial::ops::detail
