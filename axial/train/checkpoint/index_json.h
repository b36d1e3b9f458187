// SPDX-License-Identifier: Apache-2.0
// index.json of a checkpoint: text <-> CheckpointIndex, with a hash of itself inside. Used by write.cpp and
// read.cpp only.
#pragma once

#include <string>
#include <string_view>

#include "axial/train/checkpoint/checkpoint.h"

namespace axial::train {

inline constexpr std::string_view kIndexFile = "index.json";

namespace detail {

/// Indented JSON; the field "hash" covers all others.
std::string to_text(const CheckpointIndex& index);

/// Throws UnsupportedError (newer format) or ValueError (anything else wrong), naming `path`.
CheckpointIndex from_text(std::string_view text, const std::filesystem::path& path);

}  // namespace detail
}  // namespace axial::train
