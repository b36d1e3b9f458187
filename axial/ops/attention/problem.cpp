// SPDX-License-Identifier: Apache-2.0
// Checks and parameters of problem.h.
#include "axial/ops/attention/problem.h"

#include <ATen/ExpandUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "axial/ops/common/kernel_call.h"

namespace axial::ops::detail {
namespace {

constexpr std::string_view kOp = "attention";

bool is_supported(at::ScalarType type) {
  return type == at::kDouble || type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

void check_heads(const AttentionArguments& a) {
  const at::Tensor &q = a.q, &k = a.k, &v = a.v;
  AXIAL_OP_CHECK(q.dim() >= 3, kOp, "q; expected [.., queries, heads, width], got {}", shape_text(q));
  for (const auto& [t, name] : {std::pair(&k, "k"), std::pair(&v, "v")}) {
    bool fits = t->dim() == q.dim() && t->sym_size(-1) == q.sym_size(-1);
    for (int64_t d = 0; fits && d < q.dim() - 3; ++d) fits = t->sym_size(d) == q.sym_size(d);
    AXIAL_OP_CHECK(
        fits, kOp,
        "{} does not fit q {}; expected its leading dims and width, as [.., keys, heads, {}], got {}", name,
        shape_text(q), c10::str(q.sym_size(-1)), shape_text(*t));
    AXIAL_OP_CHECK(t->scalar_type() == q.scalar_type(), kOp,
                   "dtypes differ; expected {} for {} as for q, got {}", c10::toString(q.scalar_type()), name,
                   c10::toString(t->scalar_type()));
    AXIAL_OP_CHECK(t->device() == q.device(), kOp, "devices differ; expected {} for {} as for q, got {}",
                   q.device().str(), name, t->device().str());
  }
  AXIAL_OP_CHECK(k.sym_size(-3) == v.sym_size(-3) && k.sym_size(-2) == v.sym_size(-2), kOp,
                 "k and v differ in keys or heads; got {} and {}", shape_text(k), shape_text(v));
  AXIAL_OP_CHECK(q.sym_size(-1) > 0, kOp, "width; expected at least 1, got q {}", shape_text(q));
  AXIAL_OP_CHECK(
      k.sym_size(-2) > 0 && q.sym_size(-2) > 0 && q.sym_size(-2) % k.sym_size(-2) == 0, kOp,
      "heads; expected key/value heads that divide the query heads, got {} query and {} key/value heads",
      c10::str(q.sym_size(-2)), c10::str(k.sym_size(-2)));
  AXIAL_OP_CHECK(is_supported(q.scalar_type()), kOp,
                 "q; expected float64, float32, bfloat16 or float16, got {}", c10::toString(q.scalar_type()));
  AXIAL_OP_CHECK(std::isfinite(a.scale), kOp, "scale; expected a number, got {}", a.scale);
}

void check_bias(const AttentionArguments& a, const OptionalTensor& bias, std::string_view name) {
  if (!bias) return;
  const at::Tensor& q = a.q;
  std::vector<c10::SymInt> logits(q.sym_sizes().begin(), q.sym_sizes().end());
  const size_t n = logits.size();
  logits[n - 3] = q.sym_size(-2);
  logits[n - 2] = q.sym_size(-3);
  logits[n - 1] = a.k.sym_size(-3);
  bool fits = bias->dim() <= q.dim();
  for (int64_t d = 1; fits && d <= bias->dim(); ++d) {
    fits = bias->sym_size(-d) == 1 || bias->sym_size(-d) == logits[n - static_cast<size_t>(d)];
  }
  AXIAL_OP_CHECK(fits, kOp, "{}; expected a shape that broadcasts to [.., heads, queries, keys] = {}, got {}",
                 name, c10::str(c10::SymIntArrayRef(logits)), shape_text(*bias));
  const bool wide = q.scalar_type() == at::kDouble;
  AXIAL_OP_CHECK(bias->scalar_type() == q.scalar_type() || (!wide && bias->scalar_type() == at::kFloat), kOp,
                 "{}; expected dtype {}{}, got {}", name, c10::toString(q.scalar_type()),
                 wide ? "" : " or Float", c10::toString(bias->scalar_type()));
  AXIAL_OP_CHECK(bias->device() == q.device(), kOp, "{}; expected on {} as q, got {}", name, q.device().str(),
                 bias->device().str());
}

void check_integers(const OptionalTensor& t, std::string_view name) {
  AXIAL_OP_CHECK(!t || t->scalar_type() == at::kLong || t->scalar_type() == at::kInt, kOp,
                 "{}; expected int64 or int32, got {}", name, t ? c10::toString(t->scalar_type()) : "");
}

void check_host(const at::Tensor& q, const OptionalTensor& t, std::string_view name) {
  AXIAL_OP_CHECK(!t || q.is_meta() || t->is_cpu(), kOp, "{}; expected on the host, got {}", name,
                 t ? t->device().str() : "");
}

void check_pattern(const AttentionArguments& a) {
  const AttentionPattern& p = a.pattern;
  AXIAL_OP_CHECK(p.window >= 0, kOp, "window; expected at least 0, got {}", p.window);
  AXIAL_OP_CHECK(!(p.key_begin || p.key_end) || !(p.segments || p.causal || p.window > 0), kOp,
                 "expected either key_begin and key_end, or causal, window and segments, got both");
  AXIAL_OP_CHECK(!p.segments || (p.segments->dim() == 1 && p.segments->sym_size(0) > 0), kOp,
                 "segments; expected [S + 1], got {}", p.segments ? shape_text(*p.segments) : "");
  AXIAL_OP_CHECK(!p.segments || a.q.sym_size(-3) == a.k.sym_size(-3), kOp,
                 "segments; expected as many keys as queries, got q {} and k {}", shape_text(a.q),
                 shape_text(a.k));
  AXIAL_OP_CHECK(!p.alibi_slopes || (p.alibi_slopes->dim() == 1 && p.alibi_slopes->is_floating_point() &&
                                     p.alibi_slopes->sym_size(0) == a.q.sym_size(-2)),
                 kOp, "alibi_slopes; expected one slope per query head, [{}], got {}",
                 c10::str(a.q.sym_size(-2)), p.alibi_slopes ? shape_text(*p.alibi_slopes) : "");
  AXIAL_OP_CHECK(!p.alibi_slopes || !p.alibi_slopes->requires_grad() || !at::GradMode::is_enabled(), kOp,
                 "alibi_slopes; expected no gradient to be wanted, got requires_grad");
  AXIAL_OP_CHECK(p.mask_rows.has_value() == p.mask_columns.has_value(), kOp,
                 "block mask; expected mask_rows and mask_columns, got one of them");
  AXIAL_OP_CHECK(!p.mask_rows || (p.query_block > 0 && p.key_block > 0 && p.mask_rows->dim() == 1 &&
                                  p.mask_columns->dim() == 1),
                 kOp, "block mask; expected positive block sizes and vectors, got blocks {} x {}, {} and {}",
                 p.query_block, p.key_block, p.mask_rows ? shape_text(*p.mask_rows) : "",
                 p.mask_columns ? shape_text(*p.mask_columns) : "");
  for (const auto& [t, name] :
       {std::pair(&p.segments, "segments"), std::pair(&p.key_begin, "key_begin"),
        std::pair(&p.key_end, "key_end"), std::pair(&p.q_positions, "q_positions"),
        std::pair(&p.k_positions, "k_positions"), std::pair(&p.mask_rows, "mask_rows"),
        std::pair(&p.mask_columns, "mask_columns")}) {
    check_integers(*t, name);
    check_host(a.q, *t, name);
  }
  check_host(a.q, p.alibi_slopes, "alibi_slopes");
}

constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();

// The sum, or the end of the range that it would leave.
int64_t add_within(int64_t a, int64_t b) {
  int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? (b < 0 ? kLeast : std::numeric_limits<int64_t>::max()) : sum;
}

// Entry s is the first token of segment s.
std::vector<int64_t> borders_of(const at::Tensor& segments, int64_t tokens) {
  const at::Tensor host = segments.to(at::kLong).contiguous();
  const int64_t* at = host.const_data_ptr<int64_t>();
  std::vector<int64_t> borders(at, at + host.numel());
  AXIAL_OP_CHECK(borders.front() == 0 && borders.back() == tokens, kOp,
                 "segments; expected to run from 0 to the {} tokens, got {} to {}", tokens, borders.front(),
                 borders.back());
  for (size_t s = 1; s < borders.size(); ++s) {
    AXIAL_OP_CHECK(borders[s - 1] <= borders[s], kOp,
                   "segments; expected to rise, got {} after {} at entry {}", borders[s], borders[s - 1], s);
  }
  return borders;
}

}  // namespace

void check_attention(const AttentionArguments& args) {
  check_heads(args);
  check_bias(args, args.bias1, "bias1");
  check_bias(args, args.bias2, "bias2");
  check_pattern(args);
}

AttentionProblem::AttentionProblem(const AttentionArguments& args) : meta_(args.q.is_meta()) {
  const at::Tensor& q = args.q;
  leading_ = q.sizes().slice(0, static_cast<size_t>(q.dim() - 3)).vec();
  in.sizes.queries = q.size(-3);
  in.sizes.heads = q.size(-2);
  in.sizes.width = q.size(-1);
  in.sizes.keys = args.k.size(-3);
  in.sizes.kv_heads = args.k.size(-2);
  in.scale = args.scale;
  bind(args.q, in.q);
  bind(args.k, in.k);
  bind(args.v, in.v);
  if (args.bias1) bind_bias(*args.bias1, in.bias[0]);
  if (args.bias2) bind_bias(*args.bias2, in.bias[1]);
  const AttentionPattern& p = args.pattern;
  if (p.alibi_slopes) {
    kept_.push_back(meta_ ? *p.alibi_slopes : p.alibi_slopes->to(at::kFloat).contiguous());
    in.slopes = meta_ ? reinterpret_cast<const float*>(64) : kept_.back().const_data_ptr<float>();
  }
  if (p.q_positions) bind_index(*p.q_positions, in.sizes.queries, "q_positions", in.q_positions);
  if (p.k_positions) bind_index(*p.k_positions, in.sizes.keys, "k_positions", in.k_positions);
  if (!meta_) bind_intervals(p);
  if (p.mask_rows) bind_mask(p);
}

void AttentionProblem::add_strides(at::IntArrayRef strides, int64_t* to) {
  strides_.push_back({strides.vec(), to});
}

void AttentionProblem::bind(const at::Tensor& tensor, kernels::AttentionTensor& to) {
  // The kernel asks of a pointer only whether it is null; on Meta there is nothing behind it.
  to.data = meta_ ? reinterpret_cast<void*>(64) : const_cast<void*>(tensor.const_data_ptr());
  to.dtype = dtype_of(tensor, kOp);
  to.row = tensor.stride(-3);
  to.head = tensor.stride(-2);
  to.col = tensor.stride(-1);
  add_strides(tensor.strides().slice(0, leading_.size()), to.leading);
}

void AttentionProblem::bind_bias(const at::Tensor& tensor, kernels::AttentionBias& to) {
  std::vector<int64_t> logits = leading_;
  logits.insert(logits.end(), {in.sizes.heads, in.sizes.queries, in.sizes.keys});
  const at::Tensor whole = tensor.expand(logits);
  to.data = meta_ ? reinterpret_cast<void*>(64) : const_cast<void*>(tensor.const_data_ptr());
  to.dtype = dtype_of(tensor, kOp);
  to.head = whole.stride(-3);
  to.query = whole.stride(-2);
  to.key = whole.stride(-1);
  add_strides(whole.strides().slice(0, leading_.size()), to.leading);
}

void AttentionProblem::bind_index(const at::Tensor& index, int64_t items, std::string_view name,
                                  kernels::AttentionIndex& to) {
  std::vector<int64_t> shape = leading_;
  shape.push_back(items);
  bool fits = index.dim() <= static_cast<int64_t>(shape.size());
  for (int64_t d = 1; fits && d <= index.dim(); ++d) {
    fits = index.size(-d) == 1 || index.size(-d) == shape[shape.size() - static_cast<size_t>(d)];
  }
  AXIAL_OP_CHECK(fits, kOp, "{}; expected a shape that broadcasts to {}, got {}", name,
                 c10::str(at::IntArrayRef(shape)), shape_text(index));
  kept_.push_back(index.to(at::kLong).expand(shape));
  const at::Tensor& whole = kept_.back();
  to.data = meta_ ? reinterpret_cast<const int64_t*>(64) : whole.const_data_ptr<int64_t>();
  to.item = whole.stride(-1);
  add_strides(whole.strides().slice(0, leading_.size()), to.leading);
}

// Causal and window by positions: rising ones of the keys make what a query sees one interval.
void AttentionProblem::bind_intervals_by_position(const AttentionPattern& p,
                                                  const std::vector<int64_t>& borders) {
  const int64_t queries = in.sizes.queries, keys = in.sizes.keys;
  const auto options = at::TensorOptions(at::kLong);
  const at::Tensor q =
      (p.q_positions ? *p.q_positions : at::arange(keys - queries, keys, options)).to(at::kLong);
  const at::Tensor k = (p.k_positions ? *p.k_positions : at::arange(keys, options)).to(at::kLong);
  const auto leading = [](const at::Tensor& t) {
    return t.sizes().slice(0, static_cast<size_t>(std::max<int64_t>(t.dim() - 1, 0)));
  };
  std::vector<int64_t> shape = at::infer_size(leading(q), leading(k));
  const auto whole = [&](const at::Tensor& t, int64_t items) {
    shape.push_back(items);
    const at::Tensor out = t.expand(shape).contiguous();
    shape.pop_back();
    return out;
  };
  const at::Tensor all_q = whole(q, queries), all_k = whole(k, keys);
  const at::Tensor begin = at::empty_like(all_q), end = at::empty_like(all_q);
  for (int64_t row = 0; queries > 0 && row < all_q.numel() / queries; ++row) {
    const int64_t* at = all_q.const_data_ptr<int64_t>() + row * queries;
    const int64_t* of = all_k.const_data_ptr<int64_t>() + row * keys;
    for (size_t s = 0; s + 1 < borders.size(); ++s) {
      const int64_t *first = of + borders[s], *last = of + borders[s + 1];
      const int64_t* fall = std::is_sorted_until(first, last);
      AXIAL_OP_CHECK(fall == last, kOp,
                     "k_positions; expected to rise, for causal and window, got {} after {}", *fall,
                     fall[-1]);
    }
    size_t s = 0;
    for (int64_t i = 0; i < queries; ++i) {
      while (s + 2 < borders.size() && i + keys - queries >= borders[s + 1]) ++s;
      const int64_t *first = of + borders[s], *last = of + borders[s + 1];
      const int64_t least = p.window > 0 ? add_within(at[i], -p.window) : kLeast;
      const int64_t most = p.causal ? at[i] : add_within(at[i], p.window);
      begin.mutable_data_ptr<int64_t>()[row * queries + i] = std::lower_bound(first, last, least) - of;
      end.mutable_data_ptr<int64_t>()[row * queries + i] = std::upper_bound(first, last, most) - of;
    }
  }
  bind_index(begin, queries, "q_positions", in.key_begin);
  bind_index(end, queries, "q_positions", in.key_end);
}

void AttentionProblem::bind_intervals(const AttentionPattern& p) {
  if (p.key_begin) bind_index(*p.key_begin, in.sizes.queries, "key_begin", in.key_begin);
  if (p.key_end) bind_index(*p.key_end, in.sizes.queries, "key_end", in.key_end);
  if (!p.segments && !p.causal && p.window == 0) return;
  const int64_t queries = in.sizes.queries, keys = in.sizes.keys;
  const int64_t window = std::min(p.window, queries + keys);  // farther than anything lies
  std::vector<int64_t> borders{0, keys};
  if (p.segments) borders = borders_of(*p.segments, keys);
  if ((p.q_positions || p.k_positions) && (p.causal || p.window > 0))
    return bind_intervals_by_position(p, borders);
  size_t segment = 0;
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t position = i + keys - queries;
    while (segment + 2 < borders.size() && position >= borders[segment + 1]) ++segment;
    const int64_t begin = borders[segment], end = borders[segment + 1];
    begin_.push_back(window > 0 ? std::max(begin, position - window) : begin);
    const int64_t last = window > 0 ? std::min(end, position + window + 1) : end;
    end_.push_back(p.causal ? std::min(last, position + 1) : last);
  }
  in.key_begin.data = begin_.data();
  in.key_end.data = end_.data();
}

void AttentionProblem::bind_mask(const AttentionPattern& p) {
  in.mask.query_block = std::min(p.query_block, std::max<int64_t>(in.sizes.queries, 1));
  in.mask.key_block = std::min(p.key_block, std::max<int64_t>(in.sizes.keys, 1));
  if (meta_) return;
  const int64_t rows = (in.sizes.queries + in.mask.query_block - 1) / in.mask.query_block;
  const int64_t columns = (in.sizes.keys + in.mask.key_block - 1) / in.mask.key_block;
  const at::Tensor begin = p.mask_rows->to(at::kLong).contiguous();
  const at::Tensor column = p.mask_columns->to(at::kLong).contiguous();
  kept_.insert(kept_.end(), {begin, column});
  AXIAL_OP_CHECK(begin.numel() == rows + 1, kOp, "mask_rows; expected [{}], got {}", rows + 1,
                 shape_text(*p.mask_rows));
  const int64_t* r = begin.const_data_ptr<int64_t>();
  const int64_t* c = column.const_data_ptr<int64_t>();
  AXIAL_OP_CHECK(r[0] == 0 && r[rows] == column.numel(), kOp,
                 "mask_rows; expected to run from 0 to the {} mask_columns, got {} to {}", column.numel(),
                 r[0], r[rows]);
  for (int64_t i = 0; i < rows; ++i) {
    AXIAL_OP_CHECK(r[i] <= r[i + 1] && r[i + 1] <= column.numel(), kOp,
                   "mask_rows; expected to rise, got {} after {}", r[i + 1], r[i]);
    for (int64_t at = r[i]; at < r[i + 1]; ++at) {
      AXIAL_OP_CHECK(c[at] >= 0 && c[at] < columns && (at == r[i] || c[at] > c[at - 1]), kOp,
                     "mask_columns; expected rising blocks below {} in row {}, got {}", columns, i, c[at]);
    }
  }
  in.mask.row_begin = r;
  in.mask.columns = c;
}

void AttentionProblem::finish() {
  std::vector<at::IntArrayRef> strides;
  for (const Strides& of : strides_) strides.emplace_back(of.of);
  const auto [dims, sizes] = merge_dims(leading_, strides);
  AXIAL_OP_CHECK(dims.size() <= kernels::kMaxLeading, kOp,
                 "leading dims; expected at most {} that do not merge, got {} of {}", kernels::kMaxLeading,
                 dims.size(), c10::str(at::IntArrayRef(leading_)));
  in.sizes.num_leading = static_cast<int>(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    const size_t from = dims.size() - 1 - i;
    in.sizes.leading[i] = sizes[from];
    for (const Strides& s : strides_) s.to[i] = s.of[dims[from]];
  }
}

}  // namespace axial::ops::detail
