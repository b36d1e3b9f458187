// SPDX-License-Identifier: Apache-2.0
// Biases row by row: the record of a query begins at its place in the row minus its place in the record.
#include "axial/parallel/sequence_attention/record_mask.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <limits>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/parallel/sequence_attention/pair_bits.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "mask";
constexpr float kHidden = -std::numeric_limits<float>::infinity();

at::Tensor in_dtype_of_bias(at::Tensor bias, at::ScalarType dtype) {
  return dtype == at::kDouble ? bias.to(at::kDouble) : bias;
}

}  // namespace

RecordMask::RecordMask(SeesFunction sees, int64_t host_tokens)
    : RecordMask(SeesTable{0, std::move(sees)}, host_tokens) {}

RecordMask::RecordMask(SeesTable table, int64_t host_tokens)
    : table_(std::move(table)), host_tokens_(host_tokens) {
  AXIAL_CHECK(table_.sees != nullptr, kOp, "function; expected one, got none");
}

void RecordMask::check_lengths(const at::Tensor& positions) const {
  if (table_.length == 0 || positions.numel() == 0) return;
  const auto last = positions.max().item<int64_t>();
  AXIAL_CHECK(last < table_.length, kOp, "record of {} or more places; expected at most the {} of the mask",
              last + 1, table_.length);
}

void RecordMask::add_to(SequenceAttentionOptions& options, const NamedTensors& batch,
                        const SequenceLayout& layout, at::ScalarType dtype) const {
  const auto found = batch.find("record_starts");
  AXIAL_CHECK(found != batch.end(), kOp,
              "tensor 'record_starts' of the batch; expected what SequenceLayout::make_batch makes");
  const at::Tensor& starts = found->second;
  AXIAL_CHECK(!options.bias && !options.attended_bias && !options.attended_bits && !options.mask_rows, kOp,
              "options; expected neither a bias nor a block mask beside a mask of records");
  const int64_t attended = layout.ring().local_size(layout.ring_rank());
  AXIAL_CHECK(starts.dim() == 2 && starts.size(1) == attended && starts.scalar_type() == at::kLong, kOp,
              "record_starts; expected int64 [rows, {}], got {} [{}]", attended,
              c10::toString(starts.scalar_type()), fmt::join(starts.sizes(), ", "));
  const std::lock_guard lock(mutex_);
  // The runner hands every block a tensor of its own over the same memory.
  const bool known = made_ && made_->dtype == dtype && made_->record_starts.is_alias_of(starts) &&
                     made_->record_starts.sizes() == starts.sizes() &&
                     made_->record_starts.strides() == starts.strides() &&
                     made_->record_starts.storage_offset() == starts.storage_offset();
  if (!known) made_ = Made{starts, dtype, make(starts, layout, dtype)};
  options.attended_bias = made_->options.attended_bias;
  options.attended_bits = made_->options.attended_bits;
  options.mask_rows = made_->options.mask_rows;
  options.mask_columns = made_->options.mask_columns;
  options.query_block = made_->options.query_block;
  options.key_block = made_->options.key_block;
}

SequenceAttentionOptions RecordMask::make(const at::Tensor& record_starts, const SequenceLayout& layout,
                                          at::ScalarType dtype) const {
  SequenceAttentionOptions out;
  const bool in_bits = layout.length() > host_tokens_;
  if (record_starts.is_meta() && in_bits) {
    out.attended_bits =
        make_pair_bits(record_starts.size(0), record_starts.size(1), layout.length(), at::kMeta);
    return out;
  }
  if (record_starts.is_meta()) {  // what rows hold is not known: as if they were packed
    out.attended_bias =
        at::empty({record_starts.size(0), 1, record_starts.size(1), layout.length()},
                  record_starts.options().dtype(dtype == at::kDouble ? at::kDouble : at::kFloat));
    return out;
  }
  const at::Tensor host = record_starts.to(at::kCPU).contiguous();
  check_lengths(layout.attended_positions() - host);
  const bool whole =
      (table_.length == 0 || layout.length() <= table_.length) && !host.ne(0).any().item<bool>();
  if (!whole && in_bits) {
    out.attended_bits = row_bits(host, layout);
    return out;
  }
  if (!whole) {
    out.attended_bias = in_dtype_of_bias(row_bias(host, layout), dtype);
    return out;
  }
  if (!whole_rows_ || whole_rows_->length() != layout.length()) {
    whole_rows_ = std::make_unique<RowMask>(layout.length(), table_.sees);
  }
  whole_rows_->add_to(out, layout, dtype, in_bits);
  return out;
}

at::Tensor RecordMask::row_bias(const at::Tensor& record_starts, const SequenceLayout& layout) const {
  const int64_t rows = record_starts.size(0), attended = record_starts.size(1), length = layout.length();
  const at::Tensor places = layout.attended_positions();
  const auto* place = places.const_data_ptr<int64_t>();
  const auto* start = record_starts.const_data_ptr<int64_t>();
  at::Tensor bias = at::zeros({rows, 1, attended, length}, at::kFloat);
  auto* out = bias.mutable_data_ptr<float>();
  at::parallel_for(0, rows * attended, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t query = place[i % attended] - start[i];
      float* row = out + i * length + start[i];
      for (int64_t key = 0; key <= query; ++key) {
        if (!table_.sees(query, key)) row[key] = kHidden;
      }
    }
  });
  return bias;
}

at::Tensor RecordMask::row_bits(const at::Tensor& record_starts, const SequenceLayout& layout) const {
  const int64_t rows = record_starts.size(0), attended = record_starts.size(1);
  const at::Tensor places = layout.attended_positions();
  const auto* place = places.const_data_ptr<int64_t>();
  const auto* start = record_starts.const_data_ptr<int64_t>();
  const at::Tensor bits = make_pair_bits(rows, attended, layout.length(), at::kCPU);
  auto* out = bits.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows * attended, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t query = place[i % attended] - start[i];
      for (int64_t key = 0; key <= query; ++key) {
        if (!table_.sees(query, key)) hide_key(out + i * bits.size(2), start[i] + key);
      }
    }
  });
  return bits;
}

at::Tensor RecordMask::cached_bias(const at::Tensor& q_positions, const at::Tensor& k_positions,
                                   at::ScalarType dtype) const {
  check_lengths(q_positions);
  const int64_t sequences = q_positions.size(0), queries = q_positions.size(1), keys = k_positions.size(0);
  at::Tensor bias = at::zeros({sequences, 1, queries, keys}, at::kFloat);
  auto* out = bias.mutable_data_ptr<float>();
  const at::Tensor q = q_positions.contiguous(), k = k_positions.contiguous();
  const auto* query = q.const_data_ptr<int64_t>();
  const auto* key = k.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < sequences * queries; ++i) {
    for (int64_t j = 0; j < keys; ++j) {
      if (key[j] <= query[i] && !table_.sees(query[i], key[j])) out[i * keys + j] = kHidden;
    }
  }
  return in_dtype_of_bias(bias, dtype);
}

}  // namespace axial::parallel
