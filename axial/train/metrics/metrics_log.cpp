// SPDX-License-Identifier: Apache-2.0
// Writing, reading and trimming of metrics.jsonl.
#include "axial/train/metrics/metrics_log.h"

#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"
#include "axial/core/log/log.h"

namespace axial::train {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  if (!std::isfinite(value)) return nullptr;
  constexpr double kExact = 9007199254740992.0;  // 2^53: integers up to here are exact in a double
  if (value == std::floor(value) && std::abs(value) <= kExact) return static_cast<int64_t>(value);
  return value;
}

MetricsRow parse_row(std::string_view line, const std::string& place) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  AXIAL_CHECK(json.is_object() && json.contains("step") && json["step"].is_number_integer() &&
                  json.contains("kind") && json["kind"].is_string(),
              "metrics", "{}: expected a JSON object with an integer 'step' and a string 'kind', got '{}'",
              place, line.substr(0, 80));
  MetricsRow row;
  row.step = json["step"].get<int64_t>();
  row.kind = json["kind"].get<std::string>();
  for (const auto& [name, value] : json.items()) {
    if (name == "step" || name == "kind") continue;
    AXIAL_CHECK(value.is_number() || value.is_null(), "metrics",
                "{}: '{}'; expected a number or null, got {}", place, name, value.type_name());
    row.values.emplace_back(name,
                            value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return row;
}

using OnLine = std::function<void(const MetricsRow& row, std::string_view line)>;

using OnDamage = std::function<void(const ValueError& error)>;

// Without `on_damage` a damaged line is thrown.
void for_each_line(const std::filesystem::path& path, const OnLine& on_line,
                   const OnDamage& on_damage = nullptr) {
  const std::string content = read_file(path);
  size_t begin = 0;
  for (int64_t number = 1;; ++number) {
    const size_t end = content.find('\n', begin);
    if (end == std::string::npos) return;  // nothing left, or a line that a crash cut short
    const std::string_view line(content.data() + begin, end - begin);
    begin = end + 1;
    try {
      on_line(parse_row(line, fmt::format("{}:{}", path.string(), number)), line);
    } catch (const ValueError& error) {
      if (!on_damage) throw;
      on_damage(error);
    }
  }
}

// The first name of path.damaged, path.damaged-2, ... that is free.
std::filesystem::path name_aside(const std::filesystem::path& path) {
  std::filesystem::path aside = path.string() + ".damaged";
  for (int i = 2; std::filesystem::exists(aside); ++i) aside = fmt::format("{}.damaged-{}", path.string(), i);
  return aside;
}

}  // namespace

double MetricsRow::value(std::string_view name) const {
  for (const auto& [key, value] : values) {
    if (key == name) return value;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

std::string MetricsRow::json() const {
  Json json;
  json["step"] = step;
  json["kind"] = kind;
  for (const auto& [name, value] : values) {
    AXIAL_CHECK(!name.empty() && !json.contains(name), "metrics",
                "value name '{}' at step {}; expected a name that is not empty and used once", name, step);
    json[name] = number(value);
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

MetricsLog MetricsLog::create(const std::filesystem::path& path) {
  write_file_atomically(path, "");
  return MetricsLog(path);
}

MetricsLog MetricsLog::resume(const std::filesystem::path& path, int64_t step) {
  if (!std::filesystem::exists(path)) return create(path);
  std::string kept, damage;
  for_each_line(
      path,
      [&](const MetricsRow& row, std::string_view line) {
        if (row.step <= step) kept.append(line).push_back('\n');
      },
      [&](const ValueError& error) {
        if (damage.empty()) damage = error.what();
      });
  if (!damage.empty()) {
    // A run is worth more than its log: lines that can be read stay, and the whole is kept beside it.
    const std::filesystem::path aside = name_aside(path);
    write_file_atomically(aside, read_file(path));
    log()->warn("{}; such lines are left out, the log as it was is kept in '{}'", damage, aside.string());
  }
  write_file_atomically(path, kept);
  return MetricsLog(path);
}

void MetricsLog::write(const MetricsRow& row) { file_.append(row.json() + "\n"); }

std::vector<MetricsRow> read_metrics(const std::filesystem::path& path) {
  std::vector<MetricsRow> rows;
  for_each_line(path, [&](const MetricsRow& row, std::string_view) { rows.push_back(row); });
  return rows;
}

}  // namespace axial::train
