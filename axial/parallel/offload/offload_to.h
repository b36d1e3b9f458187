// SPDX-License-Identifier: Apache-2.0
// The places outside of the device, as recipes name them; offload_store.h keeps tensors there.
#pragma once

#include <string_view>
#include <utility>

#include "axial/core/recipe/recipe.h"

namespace axial::parallel {

/// Where something is kept that the device has no room for.
enum class OffloadTo {
  kNone,  ///< it stays on the device
  kHost,  ///< memory of the host
  kFile,  ///< a file without a name
};

}  // namespace axial::parallel

template <>
struct axial::recipe::EnumNames<axial::parallel::OffloadTo> {
  static constexpr std::pair<std::string_view, axial::parallel::OffloadTo> names[] = {
      {"none", axial::parallel::OffloadTo::kNone},
      {"host", axial::parallel::OffloadTo::kHost},
      {"file", axial::parallel::OffloadTo::kFile}};
};
