// SPDX-License-Identifier: Apache-2.0
// The dataflow between blocks: every write of a name is a version of its own, every read goes to the latest
// version before it. Built once from a block list; the runner and the schedule read it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "axial/parallel/block/block.h"

namespace axial::parallel {

inline constexpr int64_t kFromBatch = -1;

/// One version of a named tensor.
struct StreamValue {
  std::string name;
  int64_t producer = kFromBatch;  ///< block that writes it
  bool needs_gradient = false;    ///< parameters stand before it; of floating dtypes only
  bool is_read = false;           ///< by a block
};

/// Versions and who reads and writes them.
struct Stream {
  std::vector<StreamValue> values;           ///< batch tensors first, then in order of the blocks
  std::vector<std::vector<int64_t>> reads;   ///< per block: versions, in order of its inputs
  std::vector<std::vector<int64_t>> writes;  ///< per block: versions, in order of its outputs
  std::map<std::string, int64_t> last;       ///< name -> its last version
};

/// Versions that blocks before `border` write and blocks from it on read, in order: what stages exchange.
std::vector<int64_t> versions_across(const Stream& stream, int64_t border);

/// Resolve all names; throws ValueError naming block and tensor for a read of what nobody wrote before, a
/// name twice in a list, and two blocks or batch tensors of one name.
Stream build_stream(const std::vector<Block>& blocks, const std::vector<std::string>& batch_names);

}  // namespace axial::parallel
