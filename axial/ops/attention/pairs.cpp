// SPDX-License-Identifier: Apache-2.0
// Closed sums where the order of tokens says who sees whom, the intervals themselves where they hold numbers.
#include "axial/ops/attention/pairs.h"

#include <algorithm>
#include <vector>

#include "axial/kernels/attention/masking.h"
#include "axial/ops/attention/problem.h"

namespace axial::ops {
namespace {

const KnownPairs*& known() {
  thread_local const KnownPairs* pairs = nullptr;
  return pairs;
}

// Pairs with j - i <= highest: query i sees min(i + highest + 1, J) keys.
double pairs_up_to(int64_t queries, int64_t keys, int64_t highest) {
  highest = std::clamp(highest, -queries, keys);
  const int64_t first = std::clamp<int64_t>(-highest, 0, queries);               // that sees one
  const int64_t full = std::clamp<int64_t>(keys - highest - 1, first, queries);  // that sees all
  const auto rising = static_cast<double>(full - first);
  return rising * (static_cast<double>(first + full - 1) / 2 + static_cast<double>(highest + 1)) +
         static_cast<double>(queries - full) * static_cast<double>(keys);
}

double seen_in_intervals(const kernels::AttentionInputs& in) {
  const kernels::AttentionSizes& s = in.sizes;
  double seen = 0;
  for (int64_t x = 0; x < kernels::attention::leading_count(s); ++x) {
    const kernels::attention::Place place = kernels::attention::place_of(s, x);
    for (int64_t i = 0; i < s.queries; ++i) {
      const auto [begin, end] = kernels::attention::interval_of(in, place, i);
      seen += static_cast<double>(end - begin);
    }
  }
  return seen;
}

// Segments of T tokens; on Meta they are of one size, as rows of one record each are.
std::vector<int64_t> lengths_of(const at::Tensor& segments, int64_t tokens) {
  const int64_t count = std::max<int64_t>(segments.numel() - 1, 0);
  std::vector<int64_t> lengths;
  if (segments.is_meta()) {
    for (int64_t s = 0; s < count; ++s) lengths.push_back(tokens / count + (s < tokens % count ? 1 : 0));
    return lengths;
  }
  const at::Tensor host = segments.to(at::kLong).contiguous();
  const int64_t* border = host.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < count; ++s) lengths.push_back(border[s + 1] - border[s]);
  return lengths;
}

// Of one element of the leading dims, by order and window alone.
KnownPairs by_order(const AttentionPattern& p, int64_t queries, int64_t keys) {
  const int64_t all = queries + keys;
  const auto of = [&](int64_t i, int64_t j) {
    const int64_t window = p.window > 0 ? std::min(p.window, all) : all;
    return KnownPairs{pairs_between(i, j, j - i - window, p.causal ? j - i : j - i + window),
                      static_cast<double>(i) * static_cast<double>(j)};
  };
  if (!p.segments) return of(queries, keys);
  KnownPairs sum;
  for (const int64_t length : lengths_of(*p.segments, queries)) {
    const KnownPairs one = of(length, length);
    sum = {sum.seen + one.seen, sum.square + one.square};
  }
  return sum;
}

}  // namespace

double pairs_between(int64_t queries, int64_t keys, int64_t lowest, int64_t highest) {
  if (queries <= 0 || keys <= 0 || lowest > highest) return 0;
  return pairs_up_to(queries, keys, highest) - pairs_up_to(queries, keys, std::max(lowest, -queries) - 1);
}

std::optional<KnownPairs> known_pairs() { return known() ? std::optional(*known()) : std::nullopt; }

KnownPairsScope::KnownPairsScope(const std::optional<KnownPairs>& pairs)
    : before_(known()), pairs_(pairs.value_or(KnownPairs{})) {
  known() = pairs ? &pairs_ : nullptr;
}

KnownPairsScope::~KnownPairsScope() { known() = before_; }

KnownPairs detail::all_pairs(const AttentionArguments& args, const kernels::AttentionInputs& in) {
  const kernels::AttentionSizes& s = in.sizes;
  const auto leading = static_cast<double>(kernels::attention::leading_count(s));
  const auto heads = static_cast<double>(s.heads);
  const std::optional<KnownPairs> said = known_pairs();
  const KnownPairs order = said ? *said : by_order(args.pattern, s.queries, s.keys);
  const double seen = args.q.is_meta() ? leading * order.seen : seen_in_intervals(in);
  return {heads * seen, heads * leading * order.square};
}

}  // namespace axial::ops
