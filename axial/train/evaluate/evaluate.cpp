// SPDX-License-Identifier: Apache-2.0
// Forward passes over a fixed set of rows.
#include "axial/train/evaluate/evaluate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/parallel/host_value/host_value.h"

namespace axial::train {

double Evaluation::perplexity() const { return std::exp(loss); }

namespace {

// Consecutive rows of one forward pass.
struct Chunk {
  int64_t first = 0;
  int64_t count = 0;
};

// A part of the rows is spread over all of them: the first ones may be one record's, unlike the rest.
std::vector<Chunk> chunks_of(int64_t all, int64_t rows, int64_t batch) {
  const auto row_of = [&](int64_t k) { return rows == all ? k : k * all / rows; };
  std::vector<Chunk> chunks;
  for (int64_t done = 0; done < rows; done += chunks.back().count) {
    Chunk chunk{row_of(done), 1};
    while (chunk.count < batch && done + chunk.count < rows &&
           row_of(done + chunk.count) == chunk.first + chunk.count) {
      ++chunk.count;
    }
    chunks.push_back(chunk);
  }
  return chunks;
}

double sum_over(parallel::Communicator& ranks, const parallel::Axes& axes, double value) {
  if (ranks.mesh().group_size(axes) == 1) return value;
  const parallel::Communicator::ControlCalls control(ranks);
  return ranks.all_reduce(at::full({}, value, at::kDouble), axes, parallel::ReduceOp::kSum).item<double>();
}

}  // namespace

Evaluation evaluate(parallel::StepRunner& runner, const data::BatchSource& source,
                    const EvaluateOptions& options) {
  AXIAL_CHECK(options.batch >= 1, "evaluate", "batch; expected at least 1 row, got {}", options.batch);
  const int64_t all = source.num_rows();
  const int64_t rows = options.max_rows > 0 ? std::min(options.max_rows, all) : all;
  const std::vector<Chunk> chunks = chunks_of(all, rows, options.batch);
  parallel::Communicator& ranks = runner.communicator();
  const auto sharers = static_cast<size_t>(ranks.mesh().group_size({"data"}));
  const auto place = static_cast<size_t>(ranks.mesh().group_rank({"data"}, ranks.mesh().rank()));
  Evaluation out;
  double sum = 0, weight = 0;
  int64_t tokens = 0;
  // Every rank makes the same number of passes, its last one perhaps over no rows.
  for (size_t i = 0; i < chunks.size(); i += sharers) {
    if (options.stop && options.stop()) {
      out.stopped = true;
      break;
    }
    const bool has_rows = i + place < chunks.size();
    const Chunk chunk = has_rows ? chunks[i + place] : Chunk{chunks.back().first, 0};
    const data::Batch batch = source.rows(chunk.first, chunk.count);
    const auto result = runner.infer(batch.tensors, parallel::StepContext{}, {"loss_sum", "loss_weight"});
    sum += parallel::host_value(result.at("loss_sum"), batch.weight);
    weight += parallel::host_value(result.at("loss_weight"), batch.weight);
    tokens += batch.num_tokens;
    for (size_t k = i; k < std::min(i + sharers, chunks.size()); ++k) out.rows += chunks[k].count;
    if (options.on_rows) options.on_rows(out.rows);
  }
  const parallel::Axes axes = ranks.mesh().batch_axes();
  out.weight = sum_over(ranks, axes, weight);
  out.tokens = std::llround(sum_over(ranks, {"data"}, static_cast<double>(tokens)));
  if (out.stopped && out.weight == 0) return out;
  AXIAL_CHECK(out.weight > 0, "evaluate", "no token was predicted in {} rows", out.rows);
  out.loss = sum_over(ranks, axes, sum) / out.weight;
  return out;
}

}  // namespace axial::train
