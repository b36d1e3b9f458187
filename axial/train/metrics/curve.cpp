// SPDX-License-Identifier: Apache-2.0
// The drawing of curve.h: axes, lines, legend, labels that do not overlap.
#include "axial/train/metrics/curve.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"
#include "axial/train/metrics/plot_frame.h"

namespace axial::train {
namespace {

// Okabe and Ito's palette: told apart with any colour vision.
constexpr std::array<const char*, 8> kCurveColours{"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                   "#56B4E9", "#E69F00", "#F0E442", "#000000"};
constexpr const char* kInk = "#222222";
constexpr const char* kFaint = "#E3E3E3";
constexpr const char* kBaselineInk = "#666666";
constexpr double kLabelHeight = 15;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<uint8_t>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

std::string value_text(double value, const CurvePlot& plot) {
  std::string text = fmt::format("{:.3f}", value);
  if (!plot.exp_name.empty()) text += fmt::format(" ({} {:.2f})", plot.exp_name, std::exp(value));
  return text;
}

void draw_axes(std::string& svg, const CurvePlot& plot, const Frame& f) {
  const auto y_ticks = ticks_of(f.y, 6);
  const auto x_ticks = ticks_of(f.x, 7);
  const double y_step = y_ticks.size() > 1 ? y_ticks[1] - y_ticks[0] : 1;
  const double x_step = x_ticks.size() > 1 ? x_ticks[1] - x_ticks[0] : 1;
  for (const double tick : y_ticks) {
    const double y = f.py(tick);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"{}\"/>\n", f.left, y, f.right, kFaint);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", f.left - 8, y + 4,
                       tick_text(tick, y_step));
  }
  for (const double tick : x_ticks) {
    const double x = f.px(tick);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}v5\" stroke=\"{}\"/>\n", x, f.bottom, kInk);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x, f.bottom + 19,
                       tick_text(tick, x_step));
  }
  svg += fmt::format("<path d=\"M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}\" fill=\"none\" stroke=\"{4}\"/>\n", f.left,
                     f.top, f.bottom, f.right, kInk);
  svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (f.left + f.right) / 2,
                     plot.height - 12, escaped(plot.x_label));
  const double middle = (f.top + f.bottom) / 2;
  svg += fmt::format(
      "<text x=\"18\" y=\"{0:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {0:.1f})\">{1}</text>\n",
      middle, escaped(plot.y_label));
}

void draw_curve(std::string& svg, const Curve& curve, const Frame& f, const char* colour) {
  const auto line = [&](const std::vector<CurvePoint>& points, double width, double opacity) {
    svg += fmt::format(
        "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-opacity=\"{}\" "
        "stroke-linejoin=\"round\"/>\n",
        path_data(points, f), colour, width, opacity);
  };
  if (curve.style == CurveStyle::kArea) {
    if (curve.points.empty()) return;
    svg += fmt::format("<path d=\"{}V{:.1f}H{:.1f}Z\" fill=\"{}\"/>\n", path_data(curve.points, f), f.bottom,
                       f.px(curve.points.front().x), colour);
    return;
  }
  if (curve.style == CurveStyle::kSmoothed) {
    line(curve.points, 1, 0.28);
    line(smoothed(curve.points), 2.2, 1);
    return;
  }
  line(curve.points, 2, 1);
  if (curve.points.size() > 200) return;
  for (const CurvePoint& p : curve.points) {
    if (!std::isfinite(p.y)) continue;
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", f.px(p.x), f.py(p.y),
                       colour);
  }
}

/// Dashed lines with names in the right margin, moved apart until none overlaps another.
void draw_baselines(std::string& svg, const CurvePlot& plot, const Frame& f) {
  std::vector<CurveBaseline> lines;
  for (const CurveBaseline& line : plot.baselines) {
    if (std::isfinite(line.value)) lines.push_back(line);
  }
  std::stable_sort(lines.begin(), lines.end(),
                   [](const auto& a, const auto& b) { return a.value > b.value; });
  const double two_rows = plot.exp_name.empty() ? kLabelHeight : 2 * kLabelHeight;
  std::vector<double> at;
  for (const CurveBaseline& line : lines) {
    const double wanted = f.py(line.value);
    at.push_back(at.empty() ? wanted : std::max(wanted, at.back() + two_rows));
  }
  double limit = f.bottom - 4;
  for (size_t i = lines.size(); i-- > 0;) {
    at[i] = std::min(at[i], limit);
    limit = at[i] - two_rows;
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    const double y = f.py(lines[i].value);
    svg += fmt::format(
        "<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"{}\" stroke-width=\"1.3\" "
        "stroke-dasharray=\"6 4\"/>\n",
        f.left, y, f.right, kBaselineInk);
    svg += fmt::format("<path d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\" stroke=\"{}\" stroke-opacity=\"0.5\"/>\n",
                       f.right, y, f.right + 10, at[i], kBaselineInk);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{} {:.3f}</text>\n", f.right + 14,
                       at[i] + 4, kInk, escaped(lines[i].name), lines[i].value);
    if (plot.exp_name.empty()) continue;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\" font-size=\"11\">{} {:.2f}</text>\n",
                       f.right + 14, at[i] + 4 + kLabelHeight - 2, kBaselineInk, escaped(plot.exp_name),
                       std::exp(lines[i].value));
  }
}

void draw_legend(std::string& svg, const CurvePlot& plot) {
  double y = 50;
  for (size_t i = 0; i < plot.curves.size(); ++i) {
    const Curve& curve = plot.curves[i];
    const bool smooth = curve.style == CurveStyle::kSmoothed;
    const auto points = smooth ? smoothed(curve.points) : curve.points;
    const CurvePoint *last = nullptr, *best = nullptr;
    for (const CurvePoint& p : points) {
      if (!std::isfinite(p.y)) continue;
      last = &p;
      if (!best || p.y < best->y) best = &p;
    }
    std::string text = escaped(curve.name) + (smooth ? " (smoothed)" : "");
    if (last) text += fmt::format(": last {}", value_text(last->y, plot));
    if (last && best != last) {
      text += fmt::format(", lowest {:.3f} at {} {}", best->y, escaped(plot.x_label),
                          with_commas(std::llround(best->x)));
    }
    const char* colour = kCurveColours[i % kCurveColours.size()];
    svg += fmt::format("<path d=\"M74 {0}h26\" stroke=\"{1}\" stroke-width=\"2.4\"/>\n", y - 4, colour);
    svg += fmt::format("<text x=\"108\" y=\"{}\">{}</text>\n", y, text);
    y += 18;
  }
}

}  // namespace

std::string render_curve(const CurvePlot& plot) {
  AXIAL_CHECK(plot.width >= 320 && plot.height >= 200, "curve", "size {} x {}; expected at least 320 x 200",
              plot.width, plot.height);
  size_t longest = 0;
  for (const CurveBaseline& line : plot.baselines) longest = std::max(longest, line.name.size() + 6);
  const double margin =
      longest == 0 ? 24 : std::min(30.0 + 7.2 * static_cast<double>(longest), plot.width * 0.4);
  Frame frame{
      74, 46 + 18 * static_cast<double>(plot.curves.size()), plot.width - margin, plot.height - 54.0, {}, {}};
  find_ranges(plot, frame);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"Inter, 'DejaVu Sans', Arial, sans-serif\" font-size=\"13\" fill=\"{2}\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"74\" y=\"27\" font-size=\"17\" font-weight=\"600\">{3}</text>\n",
      plot.width, plot.height, kInk, escaped(plot.title));
  if (frame.x.empty()) {
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">no finite value was recorded</text>\n",
                       plot.width / 2, plot.height / 2);
    return svg + "</svg>\n";
  }
  svg += fmt::format(
      "<clipPath id=\"frame\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>"
      "</clipPath>\n",
      frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top);
  draw_axes(svg, plot, frame);
  draw_baselines(svg, plot, frame);
  svg += "<g clip-path=\"url(#frame)\">\n";
  for (size_t i = 0; i < plot.curves.size(); ++i) {
    draw_curve(svg, plot.curves[i], frame, kCurveColours[i % kCurveColours.size()]);
  }
  svg += "</g>\n";
  draw_legend(svg, plot);
  return svg + "</svg>\n";
}

std::vector<Curve> curves_of(const std::vector<MetricsRow>& rows, const std::string& key) {
  std::vector<Curve> curves;
  for (const MetricsRow& row : rows) {
    const bool has =
        std::any_of(row.values.begin(), row.values.end(), [&](const auto& v) { return v.first == key; });
    if (!has) continue;
    auto curve =
        std::find_if(curves.begin(), curves.end(), [&](const Curve& c) { return c.name == row.kind; });
    if (curve == curves.end()) {
      curves.push_back({row.kind, {}, row.kind == "train" ? CurveStyle::kSmoothed : CurveStyle::kMarked});
      curve = curves.end() - 1;
    }
    curve->points.push_back({static_cast<double>(row.step), row.value(key)});
  }
  return curves;
}

}  // namespace axial::train
