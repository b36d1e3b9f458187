// SPDX-License-Identifier: Apache-2.0
// Who gets which heads, and the all-to-alls.
#include "axial/parallel/sequence_attention/heads.h"

#include <ATen/ATen.h>

#include <numeric>

namespace axial::parallel::detail {

namespace {

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

}  // namespace

HeadExchange::HeadExchange(int64_t heads, int64_t kv_heads, Sizes positions, Communicator* ranks)
    : positions_(std::move(positions)), num_kv_heads_(kv_heads), ranks_(ranks) {
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
  at::Tensor sent = kv;
  if (!kv_in_place_) {
    std::vector<at::Tensor> picked;
    for (const int64_t head : kv_heads_) picked.push_back(kv.narrow(kHeadDim, head, 1));
    sent = at::cat(picked, kHeadDim);
  }
  return all_to_all(sent, kHeadDim, 2, ranks_, axes(), kv_sizes_, positions_);
}

at::Tensor HeadExchange::key_sums_to_positions(const at::Tensor& dkv, at::ScalarType dtype) const {
  if (positions_.size() == 1 || kv_in_place_) {
    const at::Tensor rounded = dkv.to(dtype);
    if (positions_.size() == 1) return rounded;
    return all_to_all(rounded, 2, kHeadDim, ranks_, axes(), positions_, kv_sizes_);
  }
  const at::Tensor shares = all_to_all(dkv, 2, kHeadDim, ranks_, axes(), positions_, kv_sizes_);
  std::vector<int64_t> shape = shares.sizes().vec();
  shape[kHeadDim] = num_kv_heads_;
  const at::Tensor sum = at::zeros(shape, shares.options());
  for (size_t i = 0; i < kv_heads_.size(); ++i) {
    sum.narrow(kHeadDim, kv_heads_[i], 1).add_(shares.narrow(kHeadDim, static_cast<int64_t>(i), 1));
  }
  return sum.to(dtype);
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
