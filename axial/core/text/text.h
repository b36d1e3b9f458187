// SPDX-License-Identifier: Apache-2.0
// Words for people: the nearest valid name for an error, counts, bytes and durations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace axial {

/// The candidate that `name` was meant to be, or "": a misspelling (edit distance up to a quarter of its
/// length), else one that has it as its first, last or some words or the reverse ("hidden" and
/// "hidden_size"), else the smallest edit distance up to half its length. Ends an error with "did you mean".
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// "; did you mean 'x'?" for the nearest candidate, or "" when there is none.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

/// 1234567 -> "1,234,567".
std::string with_commas(int64_t count);
/// 1536 -> "1.5 KiB"; binary units.
std::string human_bytes(int64_t bytes);
/// 1234567 -> "1.23M", 12.3 -> "12.3", 0.021 -> "0.021": three figures and a decimal suffix, for rates.
std::string human_count(double value);
/// 3725 -> "1:02:05", 65 -> "1:05", 4.2 -> "4.2s".
std::string human_duration(double seconds);

}  // namespace axial
