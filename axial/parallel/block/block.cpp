// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/block/block.h"

#include <utility>

namespace axial::parallel {

NamedTensors run_block(const Block& block, NamedTensors inputs, const StepContext& context) {
  if (!block.tokens) return block.forward(inputs, context);
  if (block.forward) inputs.merge(block.forward(inputs, context));
  return block.tokens->forward(inputs, context);
}

}  // namespace axial::parallel
