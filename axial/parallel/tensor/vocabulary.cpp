// SPDX-License-Identifier: Apache-2.0
// Lookup and heads over a vocabulary that is cut or replicated.
#include "axial/parallel/tensor/vocabulary.h"

#include <ATen/ATen.h>

#include "axial/core/check/check.h"
#include "axial/ops/embedding/embedding.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "vocabulary";

// An id that no rank holds would be a row of zeros: say so. Meta tensors have no values.
void check_ids(const at::Tensor& ids, int64_t size, bool ignorable) {
  AXIAL_CHECK(ids.scalar_type() == at::kLong, kOp, "ids or labels; expected int64, got {}",
              c10::toString(ids.scalar_type()));
  if (!ids.is_cpu()) return;
  const at::Tensor list = ids.contiguous();
  const auto* id = list.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < list.numel(); ++i) {
    const bool ignored = ignorable && id[i] == ops::kIgnoreLabel;
    AXIAL_CHECK(ignored || (id[i] >= 0 && id[i] < size), kOp,
                "token at place {} is out of range; expected in [0, {}), got {}", i, size, id[i]);
  }
}

}  // namespace

Vocabulary::Vocabulary(const Parameter& table, const TensorStream& stream)
    : table_(table), stream_(stream), size_(table.spec.shape[0]) {
  const Intervals& rows = table.holding.slices[0];
  AXIAL_CHECK(rows.size() == 1, kOp, "rows of '{}'; expected one interval of tokens, got {}", table.spec.name,
              rows.size());
  rows_ = rows[0];
}

at::Tensor Vocabulary::embed(const at::Tensor& ids) const {
  if (!is_cut()) return ops::embedding(table_.value, stream_.own(ids, 1));
  check_ids(ids, size_, false);
  // Arithmetic, not where: it has a Meta kernel everywhere. Rows of others read row 0 and count as nothing.
  const at::Tensor here = ids.ge(rows_.begin).bitwise_and_(ids.lt(rows_.end));
  const at::Tensor found = ops::embedding(table_.value, (ids - rows_.begin).mul_(here));
  return stream_.leave(found * here.unsqueeze(-1).to(found.scalar_type()));
}

at::Tensor Vocabulary::enter(const at::Tensor& stream) const {
  return is_cut() ? stream_.enter(stream) : stream;
}

ops::LossSum Vocabulary::cross_entropy(const at::Tensor& logits, const at::Tensor& labels) const {
  if (!is_cut()) {
    const ops::LossSum loss = ops::cross_entropy(logits.flatten(0, -2), stream_.own(labels, 1).flatten());
    return {stream_.total(loss.sum), stream_.total(loss.weight)};
  }
  check_ids(labels, size_, true);
  return {cut_cross_entropy(logits.flatten(0, -2), labels.flatten(), rows_, *stream_.ranks()),
          labels.ne(ops::kIgnoreLabel).sum().to(at::kDouble)};
}

at::Tensor Vocabulary::token_log_likelihood(const at::Tensor& logits, const at::Tensor& labels) const {
  if (!is_cut()) {
    const at::Tensor own = stream_.own(labels, 1);
    const at::Tensor flat = ops::token_log_likelihood(logits.flatten(0, -2), own.flatten());
    return stream_.gather(flat.view(own.sizes()), 1);
  }
  check_ids(labels, size_, true);
  return cut_rows(logits.flatten(0, -2), labels.flatten(), rows_, *stream_.ranks())
      .log_likelihood.view(labels.sizes());
}

at::Tensor Vocabulary::whole_logits(const at::Tensor& logits) const {
  if (!is_cut()) return stream_.gather(logits, 1);
  return replicate_from(logits, -1, stream_.ranks(), {kTensorAxis}, even_sizes(size_, stream_.degree()));
}

}  // namespace axial::parallel
