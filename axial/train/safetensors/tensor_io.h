// SPDX-License-Identifier: Apache-2.0
// Torch over safetensors.h: tensors from and to files. Used by checkpoints and Hugging Face folders.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "axial/parallel/layout/holding.h"
#include "axial/train/safetensors/safetensors.h"

namespace axial::train {

/// A tensor of the file, copied to the host. Throws ValueError (no such name), UnsupportedError (dtype).
at::Tensor read_tensor(const SafetensorsFile& file, std::string_view name);

/// Its shape and dtype, on Meta; reads no data.
at::Tensor describe_tensor(const SafetensorsFile& file, std::string_view name);

/// The held part of a logical tensor of the file: slices of dims, then the flat interval ([n] unless the
/// interval is everything). Only the bytes of the part are read from disk.
at::Tensor read_held(const SafetensorsFile& file, std::string_view name, const parallel::Holding& holding);

/// Write host or device tensors (any strides) in the given order.
WrittenFile write_safetensors(const std::filesystem::path& path,
                              const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace axial::train
