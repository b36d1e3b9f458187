// SPDX-License-Identifier: Apache-2.0
// A transport without peers and without data: results have their shapes, and the communicator counts as it
// always does. What a plan and tests of byte counts run on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "axial/parallel/communicator/transport.h"

namespace axial::parallel {

/// One call that a recording transport was given.
struct RecordedCall {
  std::string op;
  std::string group;
  int64_t group_size = 1;
  int64_t bytes = 0;  ///< of this rank's tensor
};

/// Calls are appended to `calls` where it is not null; contents of results are undefined.
std::unique_ptr<Transport> make_recording_transport(std::vector<RecordedCall>* calls = nullptr);

}  // namespace axial::parallel
