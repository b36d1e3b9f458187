// SPDX-License-Identifier: Apache-2.0
// Intervals of keys per query, and block masks cut to a piece.
#include "axial/parallel/sequence_attention/pieces.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "axial/ops/common/kernel_call.h"
#include "axial/parallel/sequence_attention/pair_bits.h"

namespace axial::parallel::detail {

namespace {

// First key of the row that a query may see.
int64_t first_key(const Sight& sight, int64_t place, int64_t record_start) {
  return sight.window > 0 ? std::max(record_start, place - std::min(sight.window, place)) : record_start;
}

bool may_see(const Sight& sight, const Interval& queries, const Interval& keys) {
  return keys.begin < queries.end && first_key(sight, queries.begin, 0) < keys.end;
}

// key_begin and key_end [B, queries] of the piece, counted from its first key; false: nobody sees anything.
bool set_intervals(const Sight& sight, Piece& piece) {
  const int64_t rows = sight.record_starts.size(0), count = piece.queries.size();
  const at::Tensor begin = at::empty({rows, count}, sight.record_starts.options());
  const at::Tensor end = at::empty_like(begin);
  piece.pattern.key_begin = begin;
  piece.pattern.key_end = end;
  if (begin.is_meta()) return true;
  const at::Tensor starts = sight.record_starts.contiguous();
  const int64_t* from = starts.const_data_ptr<int64_t>() + piece.query_at;
  auto* first = begin.mutable_data_ptr<int64_t>();
  auto* last = end.mutable_data_ptr<int64_t>();
  bool any = false;
  for (int64_t row = 0; row < rows; ++row, from += starts.size(1)) {
    for (int64_t i = 0; i < count; ++i, ++first, ++last) {
      const int64_t place = piece.queries.begin + i;
      *first = std::max(first_key(sight, place, from[i]), piece.keys.begin) - piece.keys.begin;
      *last = std::min(place + 1, piece.keys.end) - piece.keys.begin;
      any = any || *first < *last;
    }
  }
  return any;
}

// `own`: of the queries that are among the keys.
ops::KnownPairs pairs_of(const Sight& sight, const Interval& queries, const Interval& keys, bool own) {
  // Key j and query i of the piece lie j - i + shift apart.
  const int64_t shift = keys.begin - queries.begin, row = sight.ring.size();
  const int64_t window = sight.window > 0 ? std::min(sight.window, row) : row;
  return {ops::pairs_between(queries.size(), keys.size(), -window - shift, -shift),
          own ? static_cast<double>(queries.size()) * static_cast<double>(row) : 0};
}

struct Blocks {
  const int64_t* rows;
  const int64_t* columns;
};

// The blocks of the mask that lie in the piece, which begins where blocks begin.
void cut_mask(const Sight& sight, const Blocks& mask, Piece& piece) {
  const int64_t first = piece.keys.begin / sight.key_block;
  const int64_t last = (piece.keys.end + sight.key_block - 1) / sight.key_block;
  std::vector<int64_t> rows{0}, columns;
  for (int64_t r = piece.queries.begin / sight.query_block; r * sight.query_block < piece.queries.end; ++r) {
    for (int64_t at = mask.rows[r]; at < mask.rows[r + 1]; ++at) {
      if (mask.columns[at] >= first && mask.columns[at] < last) columns.push_back(mask.columns[at] - first);
    }
    rows.push_back(static_cast<int64_t>(columns.size()));
  }
  piece.pattern.mask_rows = at::tensor(rows, at::kLong);
  piece.pattern.mask_columns = at::tensor(columns, at::kLong);
  piece.pattern.query_block = sight.query_block;
  piece.pattern.key_block = sight.key_block;
}

template <class T>
void open_blocks(const Sight& sight, const Blocks& mask, const Piece& piece, T* hidden) {
  const int64_t width = piece.keys.size();
  for (int64_t q = piece.queries.begin; q < piece.queries.end; ++q, hidden += width) {
    for (int64_t at = mask.rows[q / sight.query_block]; at < mask.rows[q / sight.query_block + 1]; ++at) {
      const int64_t begin = std::max(mask.columns[at] * sight.key_block, piece.keys.begin);
      const int64_t end = std::min((mask.columns[at] + 1) * sight.key_block, piece.keys.end);
      if (begin < end) std::fill(hidden + begin - piece.keys.begin, hidden + end - piece.keys.begin, T(0));
    }
  }
}

// The same as a bias, of any piece.
at::Tensor dense_mask(const Sight& sight, const Blocks& mask, const Piece& piece, at::ScalarType dtype) {
  const at::Tensor hidden =
      at::full({piece.queries.size(), piece.keys.size()}, -std::numeric_limits<double>::infinity(), dtype);
  if (dtype == at::kDouble) {
    open_blocks(sight, mask, piece, hidden.mutable_data_ptr<double>());
  } else {
    open_blocks(sight, mask, piece, hidden.mutable_data_ptr<float>());
  }
  return hidden;
}

void set_mask(const Sight& sight, const at::Tensor& q, Piece& piece) {
  const bool aligned =
      piece.queries.begin % sight.query_block == 0 && piece.keys.begin % sight.key_block == 0;
  if (!aligned && sight.attended_bits) return;  // they say it all: blocks only skip
  const at::ScalarType dtype = ops::accumulate_type(q.scalar_type());
  if (q.is_meta()) {
    if (aligned) {
      piece.pattern.mask_rows = sight.mask_rows;  // a plan reads of it only that it is there
      piece.pattern.mask_columns = sight.mask_columns;
    } else {
      piece.hidden = at::empty({piece.queries.size(), piece.keys.size()}, q.options().dtype(dtype));
    }
    return;
  }
  const at::Tensor rows = sight.mask_rows->contiguous(), columns = sight.mask_columns->contiguous();
  const Blocks mask{rows.const_data_ptr<int64_t>(), columns.const_data_ptr<int64_t>()};
  if (aligned) {
    cut_mask(sight, mask, piece);
  } else {
    piece.hidden = dense_mask(sight, mask, piece, dtype);
  }
}

// Queries that attend together: of one interval, and where pairs have bits so many at a time, cut where
// blocks of masks begin.
std::vector<std::pair<Interval, Interval>> query_parts(const Sight& sight) {
  std::vector<std::pair<Interval, Interval>> parts;  // and the interval that each is of
  int64_t most = sight.attended_queries;
  if (sight.attended_bits && most == 0) most = queries_at_a_time(sight.ring.size());
  if (!sight.attended_bits) most = 0;
  for (const Interval& all : sight.ring.owned(sight.rank)) {
    int64_t begin = all.begin;
    do {
      const int64_t end = most > 0 ? std::min(all.end, (begin / most + 1) * most) : all.end;
      parts.push_back({{begin, end}, all});
      begin = end;
    } while (begin < all.end);
  }
  return parts;
}

}  // namespace

std::vector<Piece> pieces_of(const Sight& sight, int64_t key_rank, const at::Tensor& q) {
  std::vector<Piece> pieces;
  int64_t query_at = 0;
  for (const auto& [queries, all] : query_parts(sight)) {
    int64_t key_at = 0;
    for (const Interval& keys : sight.ring.owned(key_rank)) {
      const bool own = all.begin == keys.begin;
      Piece piece{queries, keys, query_at, key_at, {}, pairs_of(sight, queries, keys, own), std::nullopt};
      key_at += keys.size();
      if (!may_see(sight, queries, keys) || !set_intervals(sight, piece)) continue;
      if (sight.mask_rows) set_mask(sight, q, piece);
      if (sight.alibi_slopes) {
        piece.pattern.alibi_slopes = sight.alibi_slopes;
        piece.pattern.q_positions =
            at::arange(queries.begin - keys.begin, queries.end - keys.begin, sight.record_starts.options());
      }
      pieces.push_back(std::move(piece));
    }
    query_at += queries.size();
  }
  return pieces;
}

}  // namespace axial::parallel::detail
