// SPDX-License-Identifier: Apache-2.0
// What a plain YAML scalar means, and numbers back to text. Stricter than YAML 1.1: "yes", "on" and
// "007" are text, so that no value changes its type behind the user's back.
#include <charconv>
#include <cmath>

#include "axial/core/recipe/node.h"

namespace axial::recipe {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view without_sign(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return text;
}

}  // namespace

bool is_null_word(std::string_view text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

std::optional<bool> bool_of(std::string_view text) {
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  return std::nullopt;
}

bool looks_like_integer(std::string_view text) {
  text = without_sign(text);
  if (text.empty() || !is_digit(text[0]) || (text[0] == '0' && text.size() > 1)) return false;
  for (size_t i = 1; i < text.size(); ++i) {
    const bool between_digits = is_digit(text[i - 1]) && i + 1 < text.size() && is_digit(text[i + 1]);
    if (!is_digit(text[i]) && !(text[i] == '_' && between_digits)) return false;
  }
  return true;
}

std::optional<int64_t> integer_of(std::string_view text) {
  if (!looks_like_integer(text)) return std::nullopt;
  std::string digits;
  for (char c : text) {
    if (c != '_' && c != '+') digits += c;
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> number_of(std::string_view text) {
  if (auto integer = integer_of(text)) return static_cast<double>(*integer);
  const bool negative = !text.empty() && text[0] == '-';
  const std::string_view body = without_sign(text);
  if (body == ".inf" || body == ".Inf" || body == ".INF") return negative ? -INFINITY : INFINITY;
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return NAN;
  if (body.empty() || (!is_digit(body[0]) && body[0] != '.')) return std::nullopt;
  if (body[0] == '0' && body.size() > 1 && is_digit(body[1])) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(body.data(), body.data() + body.size(), value);
  if (error != std::errc() || end != body.data() + body.size()) return std::nullopt;
  return negative ? -value : value;
}

std::string number_text(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

}  // namespace axial::recipe
