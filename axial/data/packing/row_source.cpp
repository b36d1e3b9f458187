// SPDX-License-Identifier: Apache-2.0
// Rows -> a batch through SequenceLayout; then the labels that overlapping windows would count twice go.
#include "axial/data/packing/row_source.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/data/tokenizer/tokenizer.h"

namespace axial::data {

Batch RowSource::rows(int64_t first, int64_t count) const {
  AXIAL_CHECK(first >= 0 && count >= 0, "rows",
              "range of rows; expected first and count from 0, got {} and {}", first, count);
  std::vector<parallel::PackedRow> packed;
  std::vector<std::vector<parallel::Interval>> ignored;
  Batch batch;
  for (int64_t index = first; index < first + count; ++index) {
    SourceRow made = row(index);
    made.row.sample_id = index;
    batch.num_tokens += static_cast<int64_t>(made.row.tokens.size());
    for (const parallel::Interval& i : made.ignored) batch.weight -= static_cast<double>(i.size());
    std::move(made.names.begin(), made.names.end(), std::back_inserter(batch.record_names));
    packed.push_back(std::move(made.row));
    ignored.push_back(std::move(made.ignored));
  }
  batch.weight += static_cast<double>(parallel::count_labels(packed));
  batch.tensors = layout_.make_batch(packed, SpecialIds::kPad);
  const at::Tensor& places = batch.tensors.at("row_positions");
  const int64_t* place = places.const_data_ptr<int64_t>();
  int64_t* labels = batch.tensors.at("labels").mutable_data_ptr<int64_t>();
  const int64_t width = places.numel();
  for (size_t r = 0; r < ignored.size(); ++r) {
    for (const parallel::Interval& i : ignored[r]) {
      for (int64_t l = 0; l < width; ++l) {
        if (place[l] >= i.begin && place[l] < i.end) {
          labels[static_cast<int64_t>(r) * width + l] = parallel::kIgnoredLabel;
        }
      }
    }
  }
  return batch;
}

}  // namespace axial::data
