// SPDX-License-Identifier: Apache-2.0
// Finds tensors with gradient that a block uses without having declared them: autograd per block would lose
// their gradients without a word.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::parallel {

/// Walk the graph behind `outputs`; throws ValueError naming the block and, where it is one, the parameter
/// for a leaf that is not among `declared`.
void check_graph_leaves(const std::string& block, const std::vector<at::Tensor>& outputs,
                        const std::vector<at::Tensor>& declared, const ParameterTable& parameters);

}  // namespace axial::parallel
