// SPDX-License-Identifier: Apache-2.0
// Biases row by row: the record of a query begins at its place in the row minus its place in the record.
#include "axial/parallel/sequence_attention/record_mask.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <limits>
#include <utility>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "mask";
constexpr float kHidden = -std::numeric_limits<float>::infinity();

at::Tensor in_dtype_of_bias(at::Tensor bias, at::ScalarType dtype) {
  return dtype == at::kDouble ? bias.to(at::kDouble) : bias;
}

}  // namespace

RecordMask::RecordMask(SeesFunction sees) : RecordMask(SeesTable{0, std::move(sees)}) {}

RecordMask::RecordMask(SeesTable table) : table_(std::move(table)) {
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
  for (const char* name : {"positions", "record_starts"}) {
    AXIAL_CHECK(batch.count(name), kOp,
                "tensor '{}' of the batch; expected what SequenceLayout::make_batch makes", name);
  }
  const at::Tensor &positions = batch.at("positions"), &starts = batch.at("record_starts");
  AXIAL_CHECK(!options.bias && !options.mask_rows, kOp,
              "options; expected neither a bias nor a block mask beside a mask of records");
  AXIAL_CHECK(positions.dim() == 2 && positions.size(1) == layout.local_length() &&
                  positions.scalar_type() == at::kLong,
              kOp, "positions; expected int64 [rows, {}], got {} [{}]", layout.local_length(),
              c10::toString(positions.scalar_type()), fmt::join(positions.sizes(), ", "));
  const std::lock_guard lock(mutex_);
  // The runner hands every block a tensor of its own over the same memory.
  const bool known = made_ && made_->dtype == dtype && made_->positions.is_alias_of(positions) &&
                     made_->positions.sizes() == positions.sizes() &&
                     made_->positions.strides() == positions.strides() &&
                     made_->positions.storage_offset() == positions.storage_offset();
  if (!known) made_ = Made{positions, dtype, make(positions, starts, layout, dtype)};
  options.bias = made_->options.bias;
  options.mask_rows = made_->options.mask_rows;
  options.mask_columns = made_->options.mask_columns;
  options.query_block = made_->options.query_block;
  options.key_block = made_->options.key_block;
}

SequenceAttentionOptions RecordMask::make(const at::Tensor& positions, const at::Tensor& record_starts,
                                          const SequenceLayout& layout, at::ScalarType dtype) const {
  SequenceAttentionOptions out;
  if (positions.is_meta()) {  // what rows hold is not known: as if they were packed
    out.bias = at::empty({positions.size(0), 1, positions.size(1), layout.length()},
                         positions.options().dtype(dtype == at::kDouble ? at::kDouble : at::kFloat));
    return out;
  }
  const at::Tensor host = positions.to(at::kCPU).contiguous();
  check_lengths(host);
  // Asked of all positions of the ring rank, so that its ulysses ranks, which exchange biases, say the same.
  const bool whole =
      (table_.length == 0 || layout.length() <= table_.length) && !record_starts.ne(0).any().item<bool>();
  if (!whole) {
    out.bias = in_dtype_of_bias(row_bias(host, layout), dtype);
    return out;
  }
  if (!whole_rows_ || whole_rows_->length() != layout.length()) {
    whole_rows_ = std::make_unique<RowMask>(layout.length(), table_.sees);
  }
  whole_rows_->add_to(out, layout, dtype);
  return out;
}

at::Tensor RecordMask::row_bias(const at::Tensor& positions, const SequenceLayout& layout) const {
  const int64_t rows = positions.size(0), held = positions.size(1), length = layout.length();
  const at::Tensor places = layout.row_positions();
  const auto* place = places.const_data_ptr<int64_t>();
  const auto* position = positions.const_data_ptr<int64_t>();
  at::Tensor bias = at::zeros({rows, 1, held, length}, at::kFloat);
  auto* out = bias.mutable_data_ptr<float>();
  at::parallel_for(0, rows * held, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t query = position[i];
      float* row = out + i * length + (place[i % held] - query);  // where the record begins
      for (int64_t key = 0; key <= query; ++key) {
        if (!table_.sees(query, key)) row[key] = kHidden;
      }
    }
  });
  return bias;
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
