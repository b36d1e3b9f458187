// SPDX-License-Identifier: Apache-2.0
// The training loop of a run folder: steps, validation, checkpoints, metrics, signals. `axial train` makes
// one, resumes it if there is something to resume, and runs it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "axial/data/common/batch_source.h"
#include "axial/models/common/registry.h"
#include "axial/train/checkpoint/store.h"
#include "axial/train/evaluate/evaluate.h"
#include "axial/train/run_folder/run_folder.h"
#include "axial/train/trainer/options.h"
#include "axial/train/trainer/training_step.h"

namespace axial::train {

class RunReport;

/// The loss or a gradient stopped being finite; what() names step, records and the last checkpoint.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

/// What a run is made of besides options.
struct TrainerInputs {
  models::Model model;                            ///< built, not materialised
  const data::BatchSource* training = nullptr;    ///< not owned
  const data::BatchSource* validation = nullptr;  ///< not owned; null: none
  /// Completes the config of a checkpoint that was written before a setting existed; null: taken as it is.
  /// Not owned.
  const models::ModelRegistry* registry = nullptr;
  nlohmann::json tokenizer;        ///< saved in checkpoints
  nlohmann::json data;             ///< identifies the rows; a resume must find the same
  std::string title = "training";  ///< of the loss curve
  bool show_progress = true;
  TrainingRanks ranks;  ///< all make the same trainer; batch sources give every rank its part of the rows
  /// Told of every step after it is done; for tests and callers with displays of their own.
  std::function<void(int64_t step, const StepOutcome& outcome)> on_step;
};

/// How a run ended.
struct TrainResult {
  int signal = 0;  ///< SIGINT or SIGTERM that ended it early; 0: all steps are done
  int64_t step = 0;
  int64_t skipped_steps = 0;
  int64_t tokens = 0;                    ///< of the whole run
  double seconds = 0;                    ///< of the whole run
  double last_loss = 0;                  ///< of the last step
  std::optional<Evaluation> validation;  ///< at the last step
  std::optional<double> best_validation_loss;
  int64_t best_step = 0;
  std::filesystem::path checkpoint;  ///< the last one
};

/// Throw ValueError naming what differs first unless the weights of one model mean the same in the other:
/// shapes and all settings but ModelEntry::training_settings are equal.
void check_can_start_from(const models::Model& trained, const models::Model& model,
                          const models::ModelRegistry& registry);

/// Trains one model on the host, on as many ranks as there are. The rows of a step are parted over `data`;
/// checkpoints are those of one rank, and go on with any number of them. Equal inputs, options and thread
/// count give bitwise equal runs, and a run that was stopped and resumed gives the losses of the run that was
/// not.
class Trainer {
 public:
  /// Materialise the model. `folder` is locked by the caller's RunFolder and must outlive the trainer.
  Trainer(TrainerInputs inputs, TrainOptions options, const RunFolder& folder);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;
  ~Trainer();

  /// Go on from the newest good checkpoint; false when the folder has none. Throws ValueError when it belongs
  /// to another model, precision, seed or other data.
  bool resume();

  /// Take the weights of a trained model (fine-tuning), before run(); check_can_start_from() comes first.
  void start_from(const parallel::ParameterReaders& weights);

  /// Train until options.steps, or until SIGINT or SIGTERM: then the step is finished and saved. Throws
  /// NotFiniteError, IoError (a checkpoint could not be written; older ones are untouched).
  TrainResult run();

  models::Model& model() { return inputs_.model; }
  parallel::StepRunner& runner() { return step_.runner(); }
  const RunState& state() const { return state_; }

 private:
  parallel::Communicator* ranks() const { return inputs_.ranks.communicator; }
  bool is_first() const;
  std::vector<data::Batch> next_batches() const;
  void step_once();
  void validate();
  void save();
  bool due(int64_t every) const;
  bool validation_is_missing() const;
  [[noreturn]] void stop_not_finite(const std::vector<data::Batch>& batches,
                                    const StepOutcome& outcome) const;
  TrainResult result(int signal) const;

  TrainerInputs inputs_;
  TrainOptions options_;
  const RunFolder& folder_;
  TrainingStep step_;
  CheckpointStore store_;
  RunState state_;
  std::unique_ptr<RunReport> report_;
  std::optional<Evaluation> validation_;
  bool new_best_ = false;
  double last_loss_ = std::numeric_limits<double>::quiet_NaN();
  std::filesystem::path saved_;
  int64_t saved_step_ = -1;
  int signal_ = 0;  // of any rank
  std::function<bool()> interrupted_;
};

}  // namespace axial::train
