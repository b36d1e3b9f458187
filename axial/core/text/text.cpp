// SPDX-License-Identifier: Apache-2.0
// Edit distance and number formatting for text.h.
#include "axial/core/text/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace axial {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

bool is_word_end(std::string_view text, size_t at) {
  return at == 0 || at == text.size() ||
         text.substr(at - 1, 2).find_first_of("_-. ") != std::string_view::npos;
}

/// How well `part` stands in `whole` as whole words: 0 in front, 1 at the end, 2 between, 3 not at all.
int word_rank(std::string_view part, std::string_view whole) {
  constexpr size_t kShortest = 3;  // below, a part says too little
  if (part.size() < kShortest) return 3;
  int rank = 3;
  for (size_t at = whole.find(part); at != std::string_view::npos; at = whole.find(part, at + 1)) {
    const size_t end = at + part.size();
    if (!is_word_end(whole, at) || !is_word_end(whole, end)) continue;
    rank = std::min(rank, at == 0 ? 0 : end == whole.size() ? 1 : 2);
  }
  return rank;
}

/// The candidate within `limit` edits that needs the fewest.
std::string nearest_spelling(std::string_view name, const std::vector<std::string>& candidates,
                             size_t limit) {
  std::string best;
  size_t best_distance = limit + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string nearest_words(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  int best_rank = 3;
  for (const std::string& candidate : candidates) {
    const int rank = std::min(word_rank(name, candidate), word_rank(candidate, name));
    if (rank < best_rank || (rank < 3 && rank == best_rank && candidate.size() < best.size())) {
      best_rank = rank;
      best = candidate;
    }
  }
  return best;
}

}  // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  const size_t length = std::max<size_t>(name.size(), 2);
  std::string nearest = nearest_spelling(name, candidates, std::max<size_t>(length / 4, 1));
  if (nearest.empty()) nearest = nearest_words(name, candidates);
  if (nearest.empty()) nearest = nearest_spelling(name, candidates, length / 2);
  return nearest;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(name, candidates);
  return nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
}

std::string with_commas(int64_t count) {
  std::string text = fmt::format("{}", count);
  for (int64_t at = static_cast<int64_t>(text.size()) - 3; at > (count < 0 ? 1 : 0); at -= 3) {
    text.insert(static_cast<size_t>(at), ",");
  }
  return text;
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array<const char*, 6> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_count(double value) {
  constexpr std::array<const char*, 5> kSuffixes{"", "k", "M", "G", "T"};
  if (!std::isfinite(value)) return "?";
  size_t suffix = 0;
  while (std::abs(value) >= 999.5 && suffix + 1 < kSuffixes.size()) {
    value /= 1000.0;
    ++suffix;
  }
  const double size = std::abs(value);
  const int decimals = size >= 99.95 || value == 0 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : 3;
  return fmt::format("{:.{}f}{}", value, decimals, kSuffixes[suffix]);
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 10) return fmt::format("{:.1f}s", seconds);
  const auto total = static_cast<int64_t>(std::llround(seconds));
  if (total < 3600) return fmt::format("{}:{:02}", total / 60, total % 60);
  return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
}

}  // namespace axial
