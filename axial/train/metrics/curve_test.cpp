// SPDX-License-Identifier: Apache-2.0
// Loss curves: what is drawn and said, bounded size, odd input. AXIAL_CURVE_FILE=<path> keeps one to look at.
#include "axial/train/metrics/curve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/rng/rng.h"

namespace axial::train {
namespace {

using testing::HasSubstr;
using testing::Not;

CurvePlot plot_of_a_run(int64_t steps) {
  CurvePlot plot;
  plot.title = "genome_demo <simulated> & small";
  Curve train{"train", {}, CurveStyle::kSmoothed}, validation{"validation", {}, CurveStyle::kMarked};
  const RngKey key = root_key(1).child("curve_test");
  for (int64_t step = 1; step <= steps; ++step) {
    const double x = static_cast<double>(step);
    const double loss = 3.55 + 0.68 * std::exp(-x / (0.12 * static_cast<double>(steps)));
    train.points.push_back({x, loss + 0.05 * random_normal(key, static_cast<uint64_t>(step))});
    if (step % (steps / 10) == 0) validation.points.push_back({x, loss + 0.03});
  }
  plot.curves = {train, validation};
  plot.baselines = {{"uniform", 4.127}, {"unigram", 3.92}, {"3-gram Kneser-Ney", 3.905}, {"truth", 3.52}};
  return plot;
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Curve, DrawsCurvesBaselinesAndLabels) {
  const std::string svg = render_curve(plot_of_a_run(1000));
  EXPECT_EQ(svg.rfind("<svg xmlns", 0), 0u);
  EXPECT_THAT(svg, HasSubstr("genome_demo &lt;simulated&gt; &amp; small"));
  EXPECT_EQ(count(svg, "<circle"), 10u) << "one dot per validation point";
  EXPECT_EQ(count(svg, "stroke-dasharray"), 4u) << "one dashed line per baseline";
  EXPECT_THAT(svg, HasSubstr(">unigram 3.920<"));
  EXPECT_THAT(svg, HasSubstr(">perplexity 50.40<"));
  EXPECT_THAT(svg, HasSubstr("train (smoothed): last "));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(svg, render_curve(plot_of_a_run(1000)));
  if (const char* path = std::getenv("AXIAL_CURVE_FILE")) write_file_atomically(path, svg);
}

TEST(Curve, LongRunsStaySmall) {
  const std::string svg = render_curve(plot_of_a_run(300000));
  EXPECT_LT(svg.size(), 150u * 1024);
}

TEST(Curve, BaselineLabelsDoNotOverlap) {
  CurvePlot plot = plot_of_a_run(100);
  plot.baselines = {{"one", 3.9}, {"two", 3.9}, {"three", 3.9}, {"four", 3.5}, {"five", 3.5}};
  const std::string svg = render_curve(plot);
  std::vector<double> rows;
  for (const char* name : {">one ", ">two ", ">three ", ">four ", ">five "}) {
    const size_t y = svg.rfind("y=\"", svg.find(name));
    rows.push_back(std::stod(svg.substr(y + 3)));
  }
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_GE(rows[i] - rows[i - 1], 29.8);
}

TEST(Curve, OddInput) {
  CurvePlot plot;
  EXPECT_THAT(render_curve(plot), HasSubstr("no finite value was recorded"));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  plot.curves = {{"train", {{1, nan}, {2, nan}}}};
  EXPECT_THAT(render_curve(plot), HasSubstr("no finite value was recorded"));
  plot.curves = {{"train", {{5, 2.0}}}};
  EXPECT_THAT(render_curve(plot), HasSubstr("last 2.000 (perplexity 7.39)")) << "one point is a plot";
  plot.curves = {{"train", {{1, 2.0}, {2, nan}, {3, 1.0}, {4, 1e300}}, CurveStyle::kMarked}};
  const std::string svg = render_curve(plot);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(count(svg, "<circle"), 3u);
  plot.width = 10;
  EXPECT_THROW(render_curve(plot), ValueError);
}

TEST(Curve, CurvesOfRows) {
  const auto curves = curves_of({{1, "train", {{"loss", 3.0}}},
                                 {1, "validation", {{"loss", 3.1}}},
                                 {2, "train", {{"loss", 2.9}}},
                                 {2, "memory", {{"bytes", 1.0}}}});
  ASSERT_EQ(curves.size(), 2u);
  EXPECT_EQ(curves[0].name, "train");
  EXPECT_EQ(curves[0].points.size(), 2u);
  EXPECT_EQ(curves[1].style, CurveStyle::kMarked);
  EXPECT_EQ(curves[1].points[0].y, 3.1);
}

}  // namespace
}  // namespace axial::train
