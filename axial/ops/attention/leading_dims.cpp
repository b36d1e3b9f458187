// SPDX-License-Identifier: Apache-2.0
// Leading dims that the kernels can walk: which ones merge, and copies for calls that have too many of them.
#include <algorithm>

#include "axial/ops/attention/problem.h"
#include "axial/ops/common/kernel_call.h"

namespace axial::ops::detail {
namespace {

// The bias with the leading dims of q, those of the logits as they are.
at::Tensor with_leading(const at::Tensor& t, at::IntArrayRef leading, int64_t own) {
  std::vector<int64_t> shape = leading.vec();
  for (int64_t d = own; d > 0; --d) shape.push_back(t.dim() < d ? 1 : t.size(-d));
  return t.expand(shape);
}

// Call f(tensor, dims of its own behind the leading ones) for what may be broadcast over leading dims.
template <class F>
void for_broadcast(AttentionArguments& a, const F& f) {
  for (OptionalTensor* t : {&a.bias1, &a.bias2}) {
    if (*t) f(**t, 3);
  }
  AttentionPattern& p = a.pattern;
  for (OptionalTensor* t : {&p.key_begin, &p.key_end, &p.q_positions, &p.k_positions}) {
    if (*t) f(**t, 1);
  }
}

}  // namespace

MergedDims merge_dims(at::IntArrayRef leading, const std::vector<at::IntArrayRef>& strides) {
  MergedDims out;
  for (size_t d = leading.size(); d-- > 0;) {
    if (leading[d] == 1) continue;
    const bool joins =
        !out.dims.empty() && std::all_of(strides.begin(), strides.end(), [&](at::IntArrayRef s) {
          return s[d] == s[out.dims.back()] * out.sizes.back();
        });
    if (joins) {
      out.sizes.back() *= leading[d];
    } else {
      out.dims.push_back(d);
      out.sizes.push_back(leading[d]);
    }
  }
  return out;
}

AttentionArguments with_few_leading_dims(AttentionArguments a) {
  if (a.q.dim() - 3 <= kernels::kMaxLeading || has_symbolic_sizes(a.q)) return a;
  const size_t count = static_cast<size_t>(a.q.dim() - 3);
  const std::vector<int64_t> leading = a.q.sizes().slice(0, count).vec();
  if (count - static_cast<size_t>(std::count(leading.begin(), leading.end(), 1)) <= kernels::kMaxLeading)
    return a;
  // What is contiguous merges with outputs and gradients, which are; copies of what is already so are free.
  for (at::Tensor* t : {&a.q, &a.k, &a.v}) *t = t->contiguous();
  std::vector<at::Tensor> views{a.q};
  for_broadcast(a, [&](at::Tensor& t, int64_t own) {
    t = t.contiguous();
    if (t.dim() > own) views.push_back(with_leading(t, leading, own));
  });
  std::vector<at::IntArrayRef> strides;
  for (const at::Tensor& t : views) strides.push_back(t.strides().slice(0, count));
  if (merge_dims(leading, strides).dims.size() <= kernels::kMaxLeading) return a;
  // Broadcasts in turns are left: whole tensors then. Autograd sums their gradients again.
  for_broadcast(a, [&](at::Tensor& t, int64_t own) {
    if (t.dim() > own) t = with_leading(t, leading, own).contiguous();
  });
  return a;
}

}  // namespace axial::ops::detail
