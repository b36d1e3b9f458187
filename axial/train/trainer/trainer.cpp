// SPDX-License-Identifier: Apache-2.0
// The loop. Whatever a later step depends on is in RunState, in the parameter table or a function of the
// step number, so that a checkpoint is the whole of it.
#include "axial/train/trainer/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <algorithm>

#include "axial/core/log/log.h"
#include "axial/core/recipe/recipe.h"
#include "axial/parallel/collectives/collectives.h"
#include "axial/parallel/collectives/exchange.h"
#include "axial/train/trainer/report.h"
#include "axial/train/trainer/signals.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "train";

// Files of the offload go to the run's folder unless the recipe names one; the first rank may not have made
// it yet.
TrainOptions with_folder(TrainOptions options, const RunFolder& folder) {
  const auto is_file = [](parallel::OffloadTo to) { return to == parallel::OffloadTo::kFile; };
  if (!options.offload_folder.empty() ||
      !(is_file(options.offload_checkpoints) || is_file(options.offload_optimizer) ||
        is_file(options.offload_parameters)))
    return options;
  options.offload_folder = folder.path().string();
  std::error_code told_by_the_store;
  std::filesystem::create_directories(options.offload_folder, told_by_the_store);
  return options;
}

// The settings of a checkpoint that grow into those of the run, e.g. longer records.
void grow(nlohmann::json& saved, const nlohmann::json& now, const std::vector<std::string>& settings,
          const std::string& folder) {
  for (const std::string& setting : settings) {
    const auto there = saved.find(setting);
    const auto here = now.find(setting);
    if (there == saved.end() || here == now.end() || *there == *here) continue;
    AXIAL_CHECK(there->get<int64_t>() <= here->get<int64_t>(), kOp,
                "setting '{}' of '{}' was {}; expected at least as much, got {}: it cannot shrink", setting,
                folder, there->get<int64_t>(), here->get<int64_t>());
    *there = *here;
  }
}

void tell_of_new_rows(const parallel::ParameterSpec& spec, const std::vector<int64_t>& saved) {
  if (saved == spec.shape) return;
  log()->info("'{}' grows from {} to {} rows: the new ones start as those of a new run", spec.name, saved[0],
              spec.shape[0]);
}

std::string precision_name(Precision precision) { return recipe::to_node(precision).scalar; }

}  // namespace

Trainer::Trainer(TrainerInputs inputs, TrainOptions options, const RunFolder& folder)
    : inputs_(std::move(inputs)),
      options_((options.validate(), with_folder(std::move(options), folder))),
      folder_(folder),
      step_(inputs_.model, options_, at::kCPU, inputs_.ranks),
      store_(folder.checkpoints(), {options_.keep_last, StoreOptions{}.shard_bytes}, ranks()) {
  AXIAL_CHECK(inputs_.training != nullptr && inputs_.training->num_rows() > 0, kOp,
              "the training data has no rows");
  if (options_.threads > 0) at::set_num_threads(static_cast<int>(options_.threads));
  state_.model_type = inputs_.model.type;
  state_.model_config = inputs_.model.config;
  state_.tokenizer = inputs_.tokenizer;
  state_.precision = precision_name(options_.precision);
  state_.seed = static_cast<uint64_t>(options_.seed);
  state_.data = inputs_.data;
}

Trainer::~Trainer() = default;

bool Trainer::is_first() const { return ranks() == nullptr || ranks()->mesh().rank() == 0; }

bool Trainer::resume() {
  store_.clean();
  auto index = store_.newest_good();
  if (!index) return false;
  RunState& state = index->state;
  if (inputs_.registry != nullptr && state.model_type == state_.model_type) {
    const models::ModelEntry& entry = inputs_.registry->at(state.model_type);
    state.model_config = entry.build(state.model_config).config;
    grow(state.model_config, state_.model_config, entry.growing_settings, index->folder.string());
  }
  check_same_model(*index, state_.model_type, state_.model_config);
  const RunState& saved = index->state;
  AXIAL_CHECK(saved.precision == state_.precision, kOp, "'{}' was trained in {}; expected {}",
              index->folder.string(), saved.precision, state_.precision);
  AXIAL_CHECK(saved.seed == state_.seed, kOp, "'{}' was trained with seed {}; expected {}",
              index->folder.string(), saved.seed, state_.seed);
  const auto differences = json_differences({{"data", saved.data}, {"tokenizer", saved.tokenizer}},
                                            {{"data", state_.data}, {"tokenizer", state_.tokenizer}}, 5);
  AXIAL_CHECK(differences.empty(), kOp,
              "'{}' was trained on other data; differing (in the checkpoint, here): {}",
              index->folder.string(), fmt::join(differences, "; "));
  load_parameters(*index, CheckpointParts::kEverything, *inputs_.model.parameters);
  for (const auto& row : inputs_.model.parameters->rows()) {
    if (is_first()) tell_of_new_rows(row->spec, index->parameters.at(row->spec.name).shape);
  }
  step_.restore(saved.optimizer, saved.loss_scaler);
  state_ = saved;
  saved_ = index->folder;
  saved_step_ = saved.step;
  return true;
}

void check_can_start_from(const models::Model& trained, const models::Model& model,
                          const models::ModelRegistry& registry) {
  AXIAL_CHECK(trained.type == model.type, kOp,
              "the model to start from is of another type; expected {}, got {}", model.type, trained.type);
  nlohmann::json theirs = trained.config, ours = model.config;
  for (const std::string& setting : registry.at(model.type).training_settings) {
    theirs.erase(setting);
    ours.erase(setting);
  }
  const auto differences = json_differences(theirs, ours, 5);
  AXIAL_CHECK(differences.empty(), kOp, "the model to start from is another one; differing (there, here): {}",
              fmt::join(differences, "; "));
  for (const auto& row : model.parameters->rows()) {
    const std::vector<int64_t>& shape = trained.parameters->at(row->spec.name).spec.shape;
    AXIAL_CHECK(row->spec.takes(shape), kOp,
                "parameter '{}' of the model to start from has another shape; expected [{}]{}, got [{}]",
                row->spec.name, fmt::join(row->spec.shape, ", "), row->spec.grows ? " or fewer rows" : "",
                fmt::join(shape, ", "));
    tell_of_new_rows(row->spec, shape);
  }
}

void Trainer::start_from(const parallel::ParameterReaders& weights) {
  parallel::fill_parameters(*inputs_.model.parameters, weights);
}

std::vector<data::Batch> Trainer::next_batches() const {
  RECORD_USER_SCOPE("data");
  const parallel::Mesh mesh = ranks() == nullptr ? parallel::Mesh::single() : ranks()->mesh();
  std::vector<data::Batch> out;
  for (const parallel::Interval& rows : micro_batches_of(options_, mesh, state_.next_row)) {
    out.push_back(inputs_.training->rows(rows.begin, rows.size()));
  }
  return out;
}

bool Trainer::validation_is_missing() const {
  return inputs_.validation && state_.step > 0 && !state_.validation_loss &&
         (due(options_.validate_every) || state_.step == options_.steps);
}

bool Trainer::due(int64_t every) const { return every > 0 && state_.step % every == 0; }

void Trainer::stop_not_finite(const std::vector<data::Batch>& batches, const StepOutcome& outcome) const {
  std::vector<std::string> names;
  for (const data::Batch& batch : batches) {
    for (const std::string& name : batch.record_names) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  const size_t count = names.size();
  if (count > 20) names.resize(20);
  fail<NotFiniteError>(
      kOp,
      "step {}: the loss is {} and the gradient norm {}; records in its batch: {}{}; last checkpoint: {}",
      state_.step + 1, outcome.loss, outcome.grad_norm, fmt::join(names, ", "),
      count > 20 ? fmt::format(", and {} more", count - 20) : "", saved_.empty() ? "none" : saved_.string());
}

void Trainer::step_once() {
  const std::vector<data::Batch> batches = next_batches();
  const StepOutcome outcome = step_.run(batches, state_.step);
  if (outcome.kind == StepOutcome::Kind::kNotFinite) stop_not_finite(batches, outcome);
  state_.step += 1;
  state_.next_row += options_.batch;
  state_.tokens += outcome.tokens;
  const bool skipped = outcome.kind == StepOutcome::Kind::kSkipped;
  if (skipped) {
    state_.skipped_steps += 1;
    if (is_first())
      log()->warn("step {}: fp16 overflow, step skipped; the loss scale was {}", state_.step,
                  outcome.loss_scale);
  }
  last_loss_ = outcome.loss;
  const double before = report_->seconds();
  report_->pause();
  state_.seconds += report_->seconds() - before;
  const bool log_it = due(options_.log_every) || skipped || state_.step == 1 || state_.step == options_.steps;
  report_->step(state_, outcome, log_it);
  if (inputs_.on_step) inputs_.on_step(state_.step, outcome);
}

void Trainer::validate() {
  EvaluateOptions options;
  options.batch = options_.micro_batch;
  options.max_rows = options_.validate_rows;
  options.stop = interrupted_;
  const Evaluation evaluation = evaluate(step_.runner(), *inputs_.validation, options);
  if (interrupted_()) return;  // a part of the rows: not comparable
  validation_ = evaluation;
  state_.validation_loss = evaluation.loss;
  new_best_ = !state_.best_validation_loss || evaluation.loss < *state_.best_validation_loss;
  if (new_best_) {
    state_.best_validation_loss = evaluation.loss;
    state_.best_step = state_.step;
  }
  report_->validation(state_, evaluation);
}

void Trainer::save() {
  if (saved_step_ == state_.step) return;
  state_.optimizer = step_.optimizer_state();
  state_.loss_scaler = step_.loss_scaler_state();
  report_->sync();
  saved_ = store_.save(state_, *inputs_.model.parameters);
  saved_step_ = state_.step;
}

TrainResult Trainer::result(int signal) const {
  TrainResult out;
  out.signal = signal;
  out.step = state_.step;
  out.skipped_steps = state_.skipped_steps;
  out.tokens = state_.tokens;
  out.seconds = state_.seconds;
  out.last_loss = last_loss_;
  out.validation = validation_;
  out.best_validation_loss = state_.best_validation_loss;
  out.best_step = state_.best_step;
  out.checkpoint = saved_;
  return out;
}

TrainResult Trainer::run() {
  const StopSignals signals;
  interrupted_ =
      [&] {  // asked by all ranks at the same places: a signal to one stops all after the same step
        if (signal_ == 0) signal_ = static_cast<int>(parallel::largest_of(signals.received(), ranks()));
        return signal_ != 0;
      };
  parallel::together(
      [&] {
        report_ = std::make_unique<RunReport>(folder_.path(), saved_step_, options_.steps,
                                              inputs_.show_progress, is_first());
      },
      ranks());
  if (validation_is_missing()) {  // a signal came in between
    validate();
    saved_step_ = -1;
    save();
  }
  while (state_.step < options_.steps && !interrupted_()) {
    state_.validation_loss.reset();
    validation_.reset();
    new_best_ = false;
    report_->resume();
    step_once();
    if (validation_is_missing() && !interrupted_()) validate();
    if (due(options_.checkpoint_every) || state_.step == options_.steps || new_best_) save();
  }
  save();  // what a signal left unsaved
  report_->finish();
  if (is_first()) write_loss_curve(folder_.path(), inputs_.title, {});
  return result(state_.step < options_.steps ? signal_ : 0);
}

}  // namespace axial::train
