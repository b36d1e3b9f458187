// SPDX-License-Identifier: Apache-2.0
// Rows, events and the progress line from step outcomes.
#include "axial/train/trainer/report.h"

#include <unistd.h>

#include <cmath>
#include <fstream>

#include "axial/core/file/file.h"
#include "axial/core/text/text.h"
#include "axial/train/run_folder/run_folder.h"

namespace axial::train {

int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  if (!(statm >> total >> resident)) return 0;
  return resident * ::sysconf(_SC_PAGESIZE);
}

void write_loss_curve(const std::filesystem::path& folder, const std::string& title,
                      const std::vector<CurveBaseline>& baselines) {
  CurvePlot plot;
  plot.title = title;
  plot.curves = curves_of(read_metrics(folder / kMetricsFile));
  plot.baselines = baselines;
  write_file_atomically(folder / "loss.svg", render_curve(plot));
}

RunReport::RunReport(const std::filesystem::path& folder, int64_t resumed_step, int64_t steps,
                     bool show_progress, bool writes) {
  if (!writes) return;
  metrics_ = std::make_unique<MetricsLog>(resumed_step < 0
                                              ? MetricsLog::create(folder / kMetricsFile)
                                              : MetricsLog::resume(folder / kMetricsFile, resumed_step));
  events_ = std::make_unique<EventFile>(folder, resumed_step < 0 ? -1 : resumed_step + 1);
  if (!show_progress) return;
  ProgressOptions options;
  options.label = "train";
  options.unit = "steps";
  options.total = steps;
  options.start = std::max<int64_t>(resumed_step, 0);
  progress_ = std::make_unique<Progress>(options);
}

void RunReport::pause() {
  seconds_ += std::chrono::duration<double>(Clock::now() - since_).count();
  since_ = Clock::now();
}

double RunReport::seconds() const { return seconds_; }

void RunReport::write(const MetricsRow& row) {
  if (!metrics_) return;
  metrics_->write(row);
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, value] : row.values) scalars.emplace_back(row.kind + "/" + name, value);
  events_->add_scalars(row.step, scalars);
}

void RunReport::step(const RunState& state, const StepOutcome& outcome, bool log) {
  pause();
  interval_tokens_ += outcome.tokens;
  const double rate = static_cast<double>(interval_tokens_) / std::max(seconds_ - logged_seconds_, 1e-9);
  const bool skipped = outcome.kind == StepOutcome::Kind::kSkipped;
  if (progress_) {
    progress_->update(state.step, fmt::format("loss {:.4f}, ppl {:.4g}, {} tokens/s, {}", outcome.loss,
                                              std::exp(outcome.loss), with_commas(std::llround(rate)),
                                              human_bytes(resident_bytes())));
  }
  if (!log) return;
  write({state.step,
         "train",
         {{"loss", outcome.loss},
          {"perplexity", std::exp(outcome.loss)},
          {"learning_rate", outcome.learning_rate},
          {"grad_norm", outcome.grad_norm},
          {"tokens", static_cast<double>(state.tokens)},
          {"tokens_per_second", rate},
          {"seconds", state.seconds},
          {"memory_bytes", static_cast<double>(resident_bytes())},
          {"skipped", skipped ? 1.0 : 0.0},
          {"loss_scale", outcome.loss_scale}}});
  logged_seconds_ = seconds_;
  interval_tokens_ = 0;
}

void RunReport::validation(const RunState& state, const Evaluation& evaluation) {
  write({state.step,
         "validation",
         {{"loss", evaluation.loss},
          {"perplexity", evaluation.perplexity()},
          {"tokens", evaluation.weight},
          {"rows", static_cast<double>(evaluation.rows)}}});
}

void RunReport::finish() {
  if (progress_) progress_->finish();
}

}  // namespace axial::train
