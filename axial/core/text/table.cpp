// SPDX-License-Identifier: Apache-2.0
// Layout of table.h.
#include "axial/core/text/table.h"

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"

namespace axial {
namespace {

size_t width_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0u) != 0x80u; }));
}

void append_cell(std::string& line, const std::string& cell, size_t width, Align align) {
  const std::string padding(width - width_of(cell), ' ');
  line += align == Align::kLeft ? cell + padding : padding + cell;
}

}  // namespace

TextTable::TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {
  AXIAL_CHECK(!columns_.empty(), "table", "no columns; expected at least 1");
}

void TextTable::add_row(std::vector<std::string> cells) {
  AXIAL_CHECK(cells.size() == columns_.size(), "table", "wrong number of cells; expected {}, got {}",
              columns_.size(), cells.size());
  rows_.push_back(std::move(cells));
}

void TextTable::add_rule() { rows_.emplace_back(); }

std::string TextTable::render() const {
  std::vector<size_t> widths;
  std::vector<std::string> titles;
  for (size_t c = 0; c < columns_.size(); ++c) {
    size_t width = width_of(columns_[c].title);
    for (const auto& row : rows_) {
      if (!row.empty()) width = std::max(width, width_of(row[c]));
    }
    widths.push_back(width);
    titles.push_back(columns_[c].title);
  }
  std::string text;
  const auto append_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (c > 0) line += "  ";
      const std::string cell = row.empty() ? std::string(widths[c], '-') : row[c];
      append_cell(line, cell, widths[c], columns_[c].align);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  append_row(titles);
  append_row({});
  for (const auto& row : rows_) append_row(row);
  return text;
}

}  // namespace axial
