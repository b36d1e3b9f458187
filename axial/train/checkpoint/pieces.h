// SPDX-License-Identifier: Apache-2.0
// The pieces of a logical tensor over the ranks that hold them: who has what, and bringing one tensor
// together on the rank that writes it. Used by write.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::train::detail {

/// One tensor of a checkpoint: a parameter's value or companion.
struct Item {
  const parallel::Parameter* row = nullptr;
  std::string part;  ///< "value" or the companion's name

  /// What of the logical tensor lies here, brought to the host where it is offloaded to a file.
  at::Tensor tensor() const;
  at::ScalarType dtype() const;
  parallel::Holding holding() const;
  /// Ranks that differ along these have other parts of it.
  parallel::Axes axes() const;
  std::string key() const;
  int64_t bytes() const;  ///< of the logical tensor
};

/// Who holds what; made by all ranks together.
class Pieces {
 public:
  /// `ranks` may be null: everything lies here. Items are the same on all ranks. Throws ValueError naming a
  /// parameter of which some part is nowhere.
  Pieces(std::vector<Item> items, parallel::Communicator* ranks);

  const std::vector<Item>& items() const { return items_; }
  /// Start to send this rank's piece of an item to the rank that writes it; nothing where it has none.
  parallel::Pending send(size_t item, int64_t writer) const;
  /// The logical tensor of an item, on its writer: waits for the others' pieces. Host, contiguous.
  at::Tensor assemble(size_t item) const;

 private:
  void check_complete() const;
  int64_t rank() const;
  std::vector<int64_t> holders(size_t item, int64_t of) const;

  std::vector<Item> items_;
  parallel::Communicator* ranks_;
  std::vector<std::vector<parallel::Holding>> holdings_;  // [rank][item]
};

}  // namespace axial::train::detail
