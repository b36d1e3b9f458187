// SPDX-License-Identifier: Apache-2.0
// The cut into units of plan.h.
#include "axial/kernels/attention/plan.h"

#include <atomic>

namespace axial::kernels::attention {
namespace {

constexpr int64_t kForwardStripe =
    128 * 1024;  // floats of packed bias per thread: half of a second-level cache
constexpr int64_t kBackwardStripe = 256 * 1024;  // more: with one stripe dK and dV need no shares
constexpr int64_t kForwardPart = 256;            // queries over which packing K and V pays
constexpr int64_t kForwardUnits = 64;            // enough to share out evenly
constexpr int64_t kBackwardUnits = 32;
constexpr int64_t kBackwardPart = 128;

int64_t size_of_dim(const AttentionSizes& sizes, int dim) {
  return dim == kMaxLeading ? sizes.kv_heads : sizes.leading[dim];
}

bool varies(const AttentionBias& bias, const AttentionSizes& sizes, int dim) {
  return size_of_dim(sizes, dim) > 1 && (dim == kMaxLeading ? bias.head : bias.leading[dim]) != 0;
}

// A bias may be broadcast where its gradient is not (an expanded tensor): the gradient then decides.
BiasKind kind_of(const AttentionBias& bias, const AttentionBias& gradient, const AttentionSizes& sizes) {
  if (bias.data == nullptr) return BiasKind::kNone;
  const bool wanted = gradient.data != nullptr;
  const bool by_query = (bias.query != 0 || (wanted && gradient.query != 0)) && sizes.queries > 1;
  const bool by_key = (bias.key != 0 || (wanted && gradient.key != 0)) && sizes.keys > 1;
  if (!by_key) return BiasKind::kQuery;
  return by_query ? BiasKind::kDense : BiasKind::kKey;
}

// Whether more than one head adds to an element of a dense bias's gradient.
bool is_summed(const Plan& plan, const AttentionBias& gradient) {
  if (gradient.data == nullptr) return false;
  bool summed = plan.group > 1 && gradient.head == 0;
  for (int i = 0; i < plan.num_walked; ++i) {
    const int dim = plan.walked_dims[i];
    summed = summed || (size_of_dim(plan.sizes, dim) > 1 && !varies(gradient, plan.sizes, dim));
  }
  return summed;
}

// Dims, kinds, and whether a stripe of bias serves more than one head.
Plan cut_dims(const AttentionInputs& in, const AttentionBias (&gradients)[2], bool& stays) {
  Plan plan;
  plan.sizes = in.sizes;
  plan.group = in.sizes.heads / in.sizes.kv_heads;
  bool dense[2];
  for (int b = 0; b < 2; ++b) {
    plan.kinds[b] = kind_of(in.bias[b], gradients[b], in.sizes);
    dense[b] = plan.kinds[b] == BiasKind::kDense;
  }
  const bool any = dense[0] || dense[1];
  const int64_t elements = in.sizes.queries * in.sizes.heads * in.sizes.width * leading_count(in.sizes);
  plan.streamed = elements * size_of(in.q.dtype) >= kStreamBytes;
  const auto add = [&](int dim) {
    bool moves = false, sums = false;
    for (int b = 0; b < 2; ++b) {
      if (!dense[b]) continue;
      const bool wanted = gradients[b].data != nullptr, apart = varies(gradients[b], in.sizes, dim);
      moves = moves || varies(in.bias[b], in.sizes, dim) || (wanted && apart);  // an expanded bias is apart
      sums = sums || (wanted && !apart);
    }
    const bool walked = any && (!moves || sums);
    (walked ? plan.walked_dims[plan.num_walked++] : plan.own_dims[plan.num_own++]) = dim;
    (walked ? plan.walk : plan.own) *= size_of_dim(in.sizes, dim);
  };
  for (int i = 0; i < in.sizes.num_leading; ++i) add(i);
  add(kMaxLeading);
  stays = plan.walk > 1;
  for (int b = 0; b < 2; ++b) {
    if (!dense[b]) continue;
    plan.summed[b] = is_summed(plan, gradients[b]);
    stays = stays || plan.summed[b] || (plan.group > 1 && in.bias[b].head == 0);
  }
  return plan;
}

int64_t stripe_of(const AttentionSizes& sizes, int64_t floats) {
  constexpr int64_t least = 2 * kMaxTile;
  const int64_t fits = floats / round_up(std::max<int64_t>(sizes.keys, 1), kForwardKeys);
  return std::min(std::max(fits / kMaxTile * kMaxTile, least), round_up(sizes.queries, kMaxTile));
}

}  // namespace

Place Plan::place(int64_t own_index, int64_t walk_index) const {
  Place out;
  const auto take = [&](const int* dims, int count, int64_t index) {
    for (int i = count - 1; i >= 0; --i) {
      const int64_t size = size_of_dim(sizes, dims[i]);
      (dims[i] == kMaxLeading ? out.kv_head : out.leading[dims[i]]) = index % size;
      index /= size;
    }
  };
  take(own_dims, num_own, own_index);
  take(walked_dims, num_walked, walk_index);
  return out;
}

Plan plan_forward(const AttentionInputs& in) {
  bool stays = false;
  Plan plan = cut_dims(in, {}, stays);
  const int64_t queries = round_up(in.sizes.queries, kMaxTile);
  plan.part = std::min(queries, kForwardPart);
  if (stays) plan.stripe = plan.part = stripe_of(in.sizes, kForwardStripe);
  plan.query_parts = plan.part == 0 ? 0 : ceil_div(in.sizes.queries, plan.part);
  const int64_t wanted = ceil_div(kForwardUnits, std::max<int64_t>(plan.own * plan.query_parts, 1));
  plan.splits = std::max<int64_t>(1, std::min({wanted, plan.walk, kMaxSplits}));
  return plan;
}

Plan plan_backward(const AttentionBackward& params) {
  const AttentionSizes& sizes = params.in.sizes;
  bool stays = false;
  Plan plan = cut_dims(params.in, params.dbias, stays);
  const int64_t wanted = ceil_div(kBackwardUnits, std::max<int64_t>(plan.own, 1));
  plan.splits = std::max<int64_t>(1, std::min({wanted, plan.walk, kMaxSplits}));
  if (stays) plan.stripe = stripe_of(sizes, kBackwardStripe);
  const int64_t most = std::min(ceil_div(sizes.queries, kBackwardPart), kMaxSplits);
  const int64_t parts = std::max<int64_t>(1, std::min(ceil_div(wanted, plan.splits), most));
  plan.part = round_up(ceil_div(sizes.queries, parts), plan.stripe > 0 ? plan.stripe : kMaxTile);
  plan.query_parts = plan.part == 0 ? 0 : ceil_div(sizes.queries, plan.part);
  return plan;
}

BiasExtent extent_of(const AttentionBias& bias, const AttentionSizes& sizes) {
  BiasExtent out;
  if (bias.data == nullptr) return out;
  out.count = 1;
  const auto add = [&](int64_t& to, int64_t stride, int64_t size) {
    if (stride == 0 || size == 1) return;
    to = out.count;
    out.count *= size;
  };
  add(out.key, bias.key, sizes.keys);
  add(out.query, bias.query, sizes.queries);
  add(out.head, bias.head, sizes.heads);
  for (int i = sizes.num_leading - 1; i >= 0; --i) add(out.leading[i], bias.leading[i], sizes.leading[i]);
  return out;
}

void for_units(int64_t units, int64_t num_threads, const ParallelFor& parallel_for,
               const std::function<void(int64_t unit, int64_t slot)>& body) {
  const int64_t slots = std::min(units, std::max<int64_t>(num_threads, 1));
  std::atomic<int64_t> next{0};
  parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      for (int64_t unit = next++; unit < units; unit = next++) body(unit, slot);
    }
  });
}

}  // namespace axial::kernels::attention
