// SPDX-License-Identifier: Apache-2.0
// The one static registration of the library: torch.ops.axial.* appear when it is loaded.
#include "axial/ops/common/registry.h"

TORCH_LIBRARY(axial, library) { axial::ops::register_all(library); }
