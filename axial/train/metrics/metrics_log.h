// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: one JSON object per line and event of a run, for people, scripts and the loss curve.
//
//   {"step":100,"kind":"train","loss":3.912,"tokens":1638400}
//   {"step":100,"kind":"validation","loss":3.95}
//
// A number that is not finite is written as null, which is what strict JSON allows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "axial/train/metrics/append_file.h"

namespace axial::train {

/// One line of metrics.jsonl.
struct MetricsRow {
  int64_t step = 0;
  std::string kind;                                    ///< "train", "validation", ...
  std::vector<std::pair<std::string, double>> values;  ///< in the order in which they are written

  /// The value called `name`; NaN when there is none.
  double value(std::string_view name) const;
  /// The row as one line of JSON without the newline. Throws ValueError for a name that is empty,
  /// repeated, "step" or "kind".
  std::string json() const;
};

/// Appends rows; each is whole in the file when write() returns.
class MetricsLog {
 public:
  /// Start an empty log, replacing an existing file.
  static MetricsLog create(const std::filesystem::path& path);
  /// Go on after step `step`: rows of later steps, and a last line cut short by a crash, are dropped
  /// (the file is replaced atomically). A missing file starts empty.
  static MetricsLog resume(const std::filesystem::path& path, int64_t step);

  void write(const MetricsRow& row);
  /// Make the rows durable; call before a checkpoint of the same step is published.
  void sync() { file_.sync(); }

 private:
  explicit MetricsLog(const std::filesystem::path& path) : file_(path) {}
  AppendFile file_;
};

/// All whole lines of a log. Null reads back as NaN. Throws IoError, or ValueError naming path and line.
std::vector<MetricsRow> read_metrics(const std::filesystem::path& path);

}  // namespace axial::train
