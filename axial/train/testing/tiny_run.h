// SPDX-License-Identifier: Apache-2.0
// A whole training run of the tiny model in one call, for tests of the trainer.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "axial/train/testing/tiny_model.h"
#include "axial/train/trainer/trainer.h"

namespace axial::train::testing {

/// 12 steps of 5 rows as micro-batches of 2, 2 and 1; validation and a checkpoint every 4 steps.
inline TrainOptions options_for(Precision precision) {
  TrainOptions options;
  options.steps = 12;
  options.batch = 5;
  options.micro_batch = 2;  // 2 + 2 + 1
  options.precision = precision;
  options.seed = 3;
  options.threads = 1;  // threads would only wait for each other in a model this small
  options.validate_every = 4;
  options.checkpoint_every = 4;
  options.log_every = 1;
  options.optimizer.learning_rate = 1e-2;
  options.schedule.warmup_steps = 2;
  return options;
}

/// What a run leaves behind.
struct Trained {
  std::vector<double> losses;
  std::vector<StepOutcome> outcomes;
  TrainResult result;
  std::vector<at::Tensor> weights;
  bool resumed = false;
};

/// One run.
struct Case {
  TrainOptions options;
  nlohmann::json config = {{"dropout", 0.2}};
  std::function<void(int64_t)> on_step = nullptr;
  int64_t rows = 7;
  int64_t poison_step = -1;  ///< after it a weight becomes NaN
};

/// Train into `folder`, going on where it stopped before.
inline Trained train(const std::filesystem::path& folder, const Case& setup) {
  const TinySource training(setup.rows);
  const TinySource validation(3);
  const RunFolder run_folder(folder);
  Trained run;
  TrainerInputs inputs;
  inputs.model = build_tiny(setup.config);
  inputs.training = &training;
  inputs.validation = &validation;
  inputs.tokenizer = {{"kind", "test"}};
  inputs.data = {{"rows", setup.rows}};
  inputs.show_progress = false;
  Trainer* running = nullptr;
  inputs.on_step = [&](int64_t step, const StepOutcome& outcome) {
    const at::NoGradGuard no_grad;
    if (step == setup.poison_step) running->model().parameters->at("out").value[0][0] = NAN;
    run.losses.push_back(outcome.loss);
    run.outcomes.push_back(outcome);
    if (setup.on_step) setup.on_step(step);
  };
  Trainer trainer(std::move(inputs), setup.options, run_folder);
  running = &trainer;
  run.resumed = trainer.resume();
  run.result = trainer.run();
  for (const auto& row : trainer.model().parameters->rows())
    run.weights.push_back(row->value.detach().clone());
  return run;
}

/// Bitwise.
inline void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << i;
}

/// The message of the E that `body` throws.
template <class E = Error>
std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const E& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace axial::train::testing
