// SPDX-License-Identifier: Apache-2.0
// From values to pixels for curve.cpp: the frame of a plot and its ranges, round ticks, smoothing, and
// paths of at most a few points per pixel.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "axial/train/metrics/curve.h"

namespace axial::train {

/// The finite values seen.
struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool empty() const { return low > high; }
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

/// The frame of the plot in pixels and the map from values to pixels.
struct Frame {
  double left, top, right, bottom;
  Range x, y;
  double px(double value) const { return left + (value - x.low) / (x.high - x.low) * (right - left); }
  double py(double value) const { return bottom - (value - y.low) / (y.high - y.low) * (bottom - top); }
};

/// The ranges of the finite points and baselines, padded; x stays empty where there is no such point.
void find_ranges(const CurvePlot& plot, Frame& frame);

/// Round tick positions (1, 2 or 5 times a power of ten apart), about `wanted` of them.
std::vector<double> ticks_of(const Range& range, int wanted);

/// A tick's value with the digits that ticks `step` apart need.
std::string tick_text(double value, double step);

/// Bias-corrected exponential average over about 1/50 of the points; NaN where the input is.
std::vector<CurvePoint> smoothed(const std::vector<CurvePoint>& points);

/// SVG path data of the line through the points, broken where one is not finite; of a long line the lowest
/// and highest point of each pixel column, which looks the same.
std::string path_data(const std::vector<CurvePoint>& points, const Frame& frame);

}  // namespace axial::train
