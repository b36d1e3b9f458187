// SPDX-License-Identifier: Apache-2.0
// Who gets which heads, and the all-to-alls.
#include "axial/parallel/sequence_attention/heads.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "axial/ops/common/kernel_call.h"

namespace axial::parallel::detail {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kHeadDim = 3;  // of [2, B, L, G, D]

const Axes& axes() {
  static const Axes axes{"ulysses"};
  return axes;
}

// Key/value heads for query heads [begin, end), `group` of which share one.
std::vector<int64_t> kv_heads_of(int64_t begin, int64_t end, int64_t group) {
  std::vector<int64_t> each, once;
  for (int64_t h = begin; h < end; ++h) {
    each.push_back(h / group);
    if (once.empty() || once.back() != h / group) once.push_back(h / group);
  }
  if (each.empty() || each.size() % once.size() != 0) return each;
  const size_t share = each.size() / once.size();
  for (size_t i = 0; i < each.size(); ++i) {
    if (each[i] != once[i / share]) return each;
  }
  return once;
}

// Heads by their numbers, repeated ones too; backward sums the copies in the dtype of sums.
struct PickHeads : torch::autograd::Function<PickHeads> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& kv, const std::vector<int64_t>& picked) {
    ctx->saved_data["picked"] = picked;
    ctx->saved_data["heads"] = kv.size(kHeadDim);
    std::vector<at::Tensor> parts;
    for (const int64_t head : picked) parts.push_back(kv.narrow(kHeadDim, head, 1));
    return at::cat(parts, kHeadDim);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor()};
    const std::vector<int64_t> picked = ctx->saved_data["picked"].toIntVector();
    std::vector<int64_t> shape = grads[0].sizes().vec();
    shape[kHeadDim] = ctx->saved_data["heads"].toInt();
    const at::ScalarType dtype = grads[0].scalar_type();
    const at::Tensor sum = at::zeros(shape, grads[0].options().dtype(ops::accumulate_type(dtype)));
    for (size_t i = 0; i < picked.size(); ++i) {
      sum.narrow(kHeadDim, picked[i], 1).add_(grads[0].narrow(kHeadDim, static_cast<int64_t>(i), 1));
    }
    return {sum.to(dtype), at::Tensor()};
  }
};

}  // namespace

HeadExchange::HeadExchange(int64_t heads, int64_t kv_heads, Sizes positions, Communicator* ranks)
    : positions_(std::move(positions)), ranks_(ranks) {
  const auto n = static_cast<int64_t>(positions_.size());
  heads_ = even_sizes(heads, n);
  if (n > 1) rank_ = ranks_->mesh().coordinate("ulysses");
  int64_t begin = 0;
  for (const int64_t size : heads_) {
    const std::vector<int64_t> mine = kv_heads_of(begin, begin + size, heads / kv_heads);
    kv_sizes_.push_back(static_cast<int64_t>(mine.size()));
    kv_heads_.insert(kv_heads_.end(), mine.begin(), mine.end());
    begin += size;
  }
  std::vector<int64_t> all(static_cast<size_t>(kv_heads));
  std::iota(all.begin(), all.end(), 0);
  kv_in_place_ = kv_heads_ == all;
}

at::Tensor HeadExchange::to_heads(const at::Tensor& q) const {
  if (positions_.size() == 1) return q;
  return all_to_all(q, 2, 1, ranks_, axes(), heads_, positions_);
}

at::Tensor HeadExchange::keys_to_heads(const at::Tensor& kv) const {
  if (positions_.size() == 1) return kv;
  const at::Tensor sent = kv_in_place_ ? kv : PickHeads::apply(kv, kv_heads_);
  return all_to_all(sent, kHeadDim, 2, ranks_, axes(), kv_sizes_, positions_);
}

at::Tensor HeadExchange::bias_to_heads(const at::Tensor& bias) const {
  if (positions_.size() == 1) return bias;
  const int64_t heads = std::accumulate(heads_.begin(), heads_.end(), int64_t{0});
  if (bias.size(1) == heads) return all_to_all(bias, 1, 2, ranks_, axes(), heads_, positions_);
  return gather_from(bias, 2, ranks_, axes(), positions_);
}

at::Tensor HeadExchange::own_heads(const at::Tensor& slopes) const {
  const int64_t before = std::accumulate(heads_.begin(), heads_.begin() + rank_, int64_t{0});
  return slopes.narrow(0, before, heads_[static_cast<size_t>(rank_)]);
}

at::Tensor HeadExchange::to_positions(const at::Tensor& out) const {
  if (positions_.size() == 1) return out;
  return all_to_all(out, 1, 2, ranks_, axes(), positions_, heads_);
}

}  // namespace axial::parallel::detail
