// SPDX-License-Identifier: Apache-2.0
// Mean negative log-likelihood of a model over rows: validation during training and `axial eval`.
#pragma once

#include <cstdint>
#include <functional>

#include "axial/data/common/batch_source.h"
#include "axial/parallel/step/runner.h"

namespace axial::train {

/// What is evaluated.
struct EvaluateOptions {
  int64_t batch = 8;     ///< rows per forward pass; does not change the result beyond rounding
  int64_t max_rows = 0;  ///< so many rows of epoch 0, evenly spread; 0: all
  std::function<void(int64_t rows)> on_rows;  ///< told how many rows are done
  std::function<bool()> stop;                 ///< asked between batches; true ends early
};

/// Token-weighted mean over all rows, summed in double.
struct Evaluation {
  bool stopped = false;  ///< by EvaluateOptions::stop: of fewer rows, perhaps of none (a loss of 0)
  double loss = 0;       ///< natural logarithm per predicted token
  double weight = 0;     ///< predicted tokens
  int64_t tokens = 0;    ///< tokens that are not padding
  int64_t rows = 0;

  double perplexity() const;
};

/// `runner` ends in the head "loss". The ranks of its communicator share the rows along `data`; all get the
/// whole result. Throws ValueError when no token is predicted.
Evaluation evaluate(parallel::StepRunner& runner, const data::BatchSource& source,
                    const EvaluateOptions& options);

}  // namespace axial::train
