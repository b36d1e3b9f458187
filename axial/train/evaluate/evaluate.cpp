// SPDX-License-Identifier: Apache-2.0
// Forward passes over a fixed set of rows.
#include "axial/train/evaluate/evaluate.h"

#include <algorithm>
#include <cmath>

#include "axial/core/check/check.h"
#include "axial/parallel/host_value/host_value.h"

namespace axial::train {

double Evaluation::perplexity() const { return std::exp(loss); }

Evaluation evaluate(parallel::StepRunner& runner, const data::BatchSource& source,
                    const EvaluateOptions& options) {
  AXIAL_CHECK(options.batch >= 1, "evaluate", "batch; expected at least 1 row, got {}", options.batch);
  const int64_t all = source.num_rows();
  const int64_t rows = options.max_rows > 0 ? std::min(options.max_rows, all) : all;
  Evaluation out;
  double sum = 0;
  // A part of the rows is spread over all of them: the first ones may be one record's, unlike the rest.
  const auto row_of = [&](int64_t k) { return rows == all ? k : k * all / rows; };
  for (int64_t done = 0; done < rows; done = out.rows) {
    if (options.stop && options.stop()) break;
    const int64_t first = row_of(done);
    int64_t count = 1;
    while (count < options.batch && done + count < rows && row_of(done + count) == first + count) ++count;
    const data::Batch batch = source.rows(first, count);
    const auto result = runner.infer(batch.tensors, parallel::StepContext{}, {"loss_sum", "loss_weight"});
    sum += parallel::host_value(result.at("loss_sum"), batch.weight);
    out.weight += parallel::host_value(result.at("loss_weight"), batch.weight);
    out.tokens += batch.num_tokens;
    out.rows += count;
    if (options.on_rows) options.on_rows(out.rows);
  }
  AXIAL_CHECK(out.weight > 0, "evaluate", "no token was predicted in {} rows", out.rows);
  out.loss = sum / out.weight;
  return out;
}

}  // namespace axial::train
