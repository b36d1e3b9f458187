// SPDX-License-Identifier: Apache-2.0
// How an op reaches torch.ops.axial: each op folder defines `register_<op>(torch::Library&)`, which
// declares its schemas and adds its CPU, Meta and Autograd kernels; the build collects them.
#pragma once

#include <torch/library.h>

namespace axial::ops {

/// Called once when the library is loaded; generated from the folders of axial/ops.
void register_all(torch::Library& registry);

}  // namespace axial::ops
