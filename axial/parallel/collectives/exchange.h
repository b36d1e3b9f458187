// SPDX-License-Identifier: Apache-2.0
// Texts between ranks: what a save, a resume or a check agrees on. Not for tensors, and not in a step.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "axial/parallel/communicator/communicator.h"

namespace axial::parallel {

/// Every rank's text, in group order; the own one where `ranks` is null.
std::vector<std::string> exchange(const std::string& mine, Communicator* ranks, const Axes& axes);

/// All axes of the mesh: the whole world.
Axes all_axes(const Mesh& mesh);

/// Run `work` on every rank and wait for all; where one throws, all throw: that one its own error, the others
/// an Error that quotes the first with its rank. A CollectiveError is thrown at once. Work that has
/// collectives keeps an error of its own until they are over.
void together(const std::function<void()>& work, Communicator* ranks);

/// The largest of all ranks' values.
int64_t largest_of(int64_t mine, Communicator* ranks);

}  // namespace axial::parallel
