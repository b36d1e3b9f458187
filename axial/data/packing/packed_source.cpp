// SPDX-License-Identifier: Apache-2.0
// From a global row index to the tokens of its windows.
#include "axial/data/packing/packed_source.h"

#include <ATen/core/Tensor.h>

#include "axial/core/check/check.h"

namespace axial::data {
namespace {

parallel::SequenceLayout layout_of(const PackedSourceOptions& options) {
  if (!options.layout) return parallel::SequenceLayout::whole(options.row_length);
  AXIAL_CHECK(options.layout->length() == options.row_length, "packed_source",
              "layout of seq; expected the row length {}, got {}", options.row_length,
              options.layout->length());
  return *options.layout;
}

}  // namespace

PackedSource::PackedSource(std::vector<std::shared_ptr<const TokenStore>> stores,
                           std::vector<RecordRef> records, const PackedSourceOptions& options)
    : RowSource(layout_of(options)),
      stores_(std::move(stores)),
      records_(std::move(records)),
      shuffle_(options.shuffle),
      order_key_(root_key(options.seed).child("rows")) {
  std::vector<int64_t> lengths;
  lengths.reserve(records_.size());
  for (const RecordRef& ref : records_) {
    lengths.push_back(stores_.at(static_cast<size_t>(ref.store))->length(ref.record));
  }
  rows_ = pack_records(lengths, options.row_length, options.stride == 0 ? options.row_length : options.stride,
                       root_key(options.seed).child("packing"));
  AXIAL_CHECK(rows_.num_rows() > 0, "packed_source",
              "nothing to predict; expected records of at least 2 tokens, got {} records", records_.size());
}

SourceRow PackedSource::row(int64_t index) const {
  AXIAL_CHECK(index >= 0, "packed_source", "row; expected at least 0, got {}", index);
  const auto rows = static_cast<uint64_t>(num_rows());
  const uint64_t epoch = static_cast<uint64_t>(index) / rows;
  uint64_t place = static_cast<uint64_t>(index) % rows;
  if (shuffle_) place = RandomPermutation(order_key_.child(epoch), rows)(place);

  SourceRow out;
  out.row.sample_id = index;
  for (const Window& window : rows_.row(static_cast<int64_t>(place))) {
    const RecordRef& ref = records_[static_cast<size_t>(window.record)];
    const TokenStore& store = *stores_[static_cast<size_t>(ref.store)];
    const size_t at = out.row.tokens.size();
    const auto start = static_cast<int64_t>(at);
    out.row.record_starts.push_back(start);
    out.row.tokens.resize(at + static_cast<size_t>(window.length));
    store.copy<int64_t>(ref.record, window.begin, std::span(out.row.tokens).subspan(at));
    if (window.ignored > 0) out.ignored.push_back({start, start + window.ignored});
    const int64_t end = window.begin + window.length;
    if (end < store.length(ref.record)) {
      // Only a window as long as the row is cut, so it is alone in it.
      int64_t next = 0;
      store.copy<int64_t>(ref.record, end, std::span(&next, 1));
      out.row.next_token = next;
    }
    out.names.emplace_back(store.name(ref.record));
  }
  return out;
}

}  // namespace axial::data
