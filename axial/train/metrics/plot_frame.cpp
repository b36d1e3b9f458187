// SPDX-License-Identifier: Apache-2.0
// Ranges, ticks, smoothing and thinning of plot_frame.h.
#include "axial/train/metrics/plot_frame.h"

#include <algorithm>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::train {
namespace {

// Lowest and highest point of each pixel column, in order: what a line through all points would show.
std::vector<CurvePoint> thinned(const std::vector<CurvePoint>& points, const Frame& frame) {
  if (points.size() < 2000) return points;
  std::vector<CurvePoint> out;
  for (size_t begin = 0; begin < points.size();) {
    const double column = std::floor(frame.px(points[begin].x));
    size_t low = begin, high = begin, end = begin;
    for (; end < points.size() && std::floor(frame.px(points[end].x)) == column; ++end) {
      if (!(points[low].y <= points[end].y)) low = end;
      if (!(points[high].y >= points[end].y)) high = end;
    }
    out.push_back(points[std::min(low, high)]);
    if (low != high) out.push_back(points[std::max(low, high)]);
    begin = std::max(end, begin + 1);
  }
  return out;
}

}  // namespace

void find_ranges(const CurvePlot& plot, Frame& frame) {
  for (const Curve& curve : plot.curves) {
    for (const CurvePoint& p : curve.points) {
      if (std::isfinite(p.y)) frame.x.add(p.x);
    }
  }
  if (frame.x.empty()) return;
  if (frame.x.low == frame.x.high) frame.x.high += 1;
  // The fall in the first 2 % must not flatten the rest of the curve; it is clipped instead.
  const double settled = frame.x.low + 0.02 * (frame.x.high - frame.x.low);
  for (const Curve& curve : plot.curves) {
    const auto points = curve.style == CurveStyle::kSmoothed ? smoothed(curve.points) : curve.points;
    for (const CurvePoint& p : points) {
      if (p.x >= settled || points.size() < 50) frame.y.add(p.y);
    }
  }
  for (const CurveBaseline& line : plot.baselines) frame.y.add(line.value);
  if (frame.y.empty()) frame.y = {0, 1};
  const double pad =
      std::max((frame.y.high - frame.y.low) * 0.06, 1e-3 * std::max(1.0, std::abs(frame.y.high)));
  frame.y.low -= pad;
  frame.y.high += pad;
}

std::vector<double> ticks_of(const Range& range, int wanted) {
  const double raw = (range.high - range.low) / wanted;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double share = raw / power;
  const double step = power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
  std::vector<double> ticks;
  for (double k = std::ceil(range.low / step - 1e-9); k * step <= range.high + step * 1e-9; ++k) {
    ticks.push_back(k * step);
  }
  return ticks;
}

std::string tick_text(double value, double step) {
  if (step >= 1) return with_commas(std::llround(value));
  return fmt::format("{:.{}f}", value, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
}

std::vector<CurvePoint> smoothed(const std::vector<CurvePoint>& points) {
  const double window = std::max(1.0, static_cast<double>(points.size()) / 50.0);
  const double keep = 1.0 - 2.0 / (window + 1.0);
  std::vector<CurvePoint> out = points;
  double sum = 0, weight = 0;
  for (CurvePoint& point : out) {
    if (!std::isfinite(point.y)) continue;
    sum = keep * sum + (1 - keep) * point.y;
    weight = keep * weight + (1 - keep);
    point.y = sum / weight;
  }
  return out;
}

std::string path_data(const std::vector<CurvePoint>& all, const Frame& frame) {
  std::string data;
  bool pen_down = false;
  for (const CurvePoint& point : thinned(all, frame)) {
    if (!std::isfinite(point.y) || !std::isfinite(point.x)) {
      pen_down = false;
      continue;
    }
    // A spike far outside stays outside: clipped by the frame, and bounded so that viewers cope.
    const double y = std::clamp(frame.py(point.y), -1e4, 1e4);
    data += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", frame.px(point.x), y);
    pen_down = true;
  }
  return data;
}

}  // namespace axial::train
