// SPDX-License-Identifier: Apache-2.0
// A table of text with aligned columns, for the summaries that commands print.
#pragma once

#include <string>
#include <vector>

namespace axial {

/// Where the text of a column stands.
enum class Align { kLeft, kRight };

/// Collects rows of cells and renders them with aligned columns, two spaces apart, no trailing spaces.
///
///   TextTable table({{"model"}, {"perplexity", Align::kRight}});
///   table.add_row({"uniform", "62.00"});
///   fmt::print("{}", table.render());
class TextTable {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit TextTable(std::vector<Column> columns);
  /// One row; throws ValueError unless it has one cell per column. Cells are single lines of UTF-8.
  void add_row(std::vector<std::string> cells);
  /// A horizontal rule between the rows added before and after.
  void add_rule();
  /// Titles, a rule, the rows; each line ends with a newline. Widths count code points.
  std::string render() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

}  // namespace axial
