// SPDX-License-Identifier: Apache-2.0
// The loss curve of a run as one self-contained SVG: training loss raw and smoothed, validation loss
// with markers, and dashed horizontal lines for what it is compared with (unigram, n-gram, truth).
#pragma once

#include <string>
#include <vector>

#include "axial/train/metrics/metrics_log.h"

namespace axial::train {

struct CurvePoint {
  double x = 0;
  double y = 0;
};

enum class CurveStyle {
  kSmoothed,  ///< faint raw line and a bold moving average over it
  kMarked,    ///< a line with a dot per point
  kArea       ///< filled down to the axis: of stacked values the sums, the largest first
};

struct Curve {
  std::string name;
  std::vector<CurvePoint> points;  ///< x rising; a y that is not finite breaks the line
  CurveStyle style = CurveStyle::kSmoothed;
};

struct CurveBaseline {
  std::string name;
  double value = 0;
};

/// What is drawn.
struct CurvePlot {
  std::string title;
  std::string x_label = "step";
  std::string y_label = "loss (nats per token)";
  std::vector<Curve> curves;
  std::vector<CurveBaseline> baselines;
  /// Write exp(value) beside each labelled value, under this name; empty: do not.
  std::string exp_name = "perplexity";
  int width = 960;
  int height = 540;
};

/// The SVG text: deterministic, fonts by family only, at most a few points per pixel whatever the
/// length of the run. Plots without a finite point say so. Throws ValueError for sizes below 320 x 200.
std::string render_curve(const CurvePlot& plot);

/// The curves that metrics rows hold under the value name `key`: "train" smoothed, any other kind marked.
std::vector<Curve> curves_of(const std::vector<MetricsRow>& rows, const std::string& key = "loss");

}  // namespace axial::train
